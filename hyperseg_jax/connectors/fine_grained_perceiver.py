"""The fine-grained visual perceiver: a fixed number of tokens from a feature pyramid (HyperSeg, arXiv 2411.17606, section 3).

The paper gates the update of each layer, P_j = P_{j-1} + tanh(MLP(P^_j)) * P^_j; the released weights have no gates.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import ACTIVATIONS, FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import FusedQKV, Identity, Row, Table

GATES = ("tanh", "none")


class Gate(nn.Module):
    """tanh(MLP(x)) * x, a weight for each channel. Parts: up, down.

    Only `down` is initialized to zero, so the gate is closed initially, but all parameters are updated within two optimizer
    steps: down in the first, up (through GELU, which has no dead units) in the second.
    """

    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        width = x.shape[-1]
        hidden = ACTIVATIONS["gelu"](Linear(width, ("embed", "mlp"), precision=self.precision, name="up")(x))
        zeros = nn.initializers.zeros
        weight = Linear(width, ("mlp", "embed"), precision=self.precision, kernel_init=zeros, name="down")(hidden)
        return jnp.tanh(weight) * x


class PerceiverLayer(nn.Module):
    """Latents attend to one level and to themselves, then a feed-forward block, with residual connections.

    Parts: norm_features, norm_latents, attention, norm_mlp, mlp, and with gates: gate, gate_mlp.
    """

    num_heads: int
    head_dim: int
    mlp_ratio: int
    gate: str
    gate_feed_forward: bool
    precision: Precision

    @nn.compact
    def __call__(
        self, latents: Float[DeviceArray, "B Q C"], features: Float[DeviceArray, "B N C"]
    ) -> Float[jax.Array, "B Q C"]:
        p, width = self.precision, latents.shape[-1]
        query = LayerNorm(precision=p, name="norm_latents")(latents)
        keys = jnp.concatenate([LayerNorm(precision=p, name="norm_features")(features), query], axis=1)
        added = MultiHeadAttention(self.num_heads, self.head_dim, False, p, name="attention")(query, keys, keys)
        latents = latents + (Gate(p, name="gate")(added) if self.gate == "tanh" else added)
        normed = LayerNorm(precision=p, name="norm_mlp")(latents)
        added = FeedForward(self.mlp_ratio * width, "gelu", use_bias=False, precision=p, name="mlp")(normed)
        latents = latents + (Gate(p, name="gate_mlp")(added) if self.gate_feed_forward else added)
        return axes.constrain(latents, "batch", "tokens", "act_embed")


class FineGrainedPerceiver(nn.Module):
    """Resamples a pyramid to num_queries tokens for the language model.

    The num_levels coarsest levels are used, by one layer each, fine to coarse.

    gate: "tanh" is the paper's conditional weighting: initially, attention does not change the latents. With
    gate_feed_forward, the feed-forward residual is gated too, and the stack before the final norm is initially the identity.
    "none" is required by the released weights.
    Parts: query, local_project_i, level_embed, layers_i, norm, expand, next_query_project.
    """

    llm_size: int
    num_levels: int = 3
    hidden_size: int = 512
    num_queries: int = 128
    num_heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4
    gate: str = "none"
    gate_feed_forward: bool = False
    precision: Precision = Precision()

    def setup(self) -> None:
        if self.gate not in GATES:
            raise ValueError(f"gate = {self.gate!r}: use one of {', '.join(GATES)}")
        if self.gate_feed_forward and self.gate == "none":
            raise ValueError('gate_feed_forward = True needs gate = "tanh"')
        p, dtype = self.precision, self.precision.params
        init = axes.named(nn.initializers.normal(1.0), "queries", "embed")
        self.query = self.param("query", init, (self.num_queries, self.hidden_size), dtype)
        init = axes.named(nn.initializers.normal(1.0), "levels", "embed")
        self.level_embed = self.param("level_embed", init, (self.num_levels, self.hidden_size), dtype)
        self.local_project = [Conv(self.hidden_size, 1, precision=p) for _ in range(self.num_levels)]
        self.layers = [
            PerceiverLayer(self.num_heads, self.head_dim, self.mlp_ratio, self.gate, self.gate_feed_forward, p)
            for _ in range(self.num_levels)
        ]
        self.norm = LayerNorm(precision=p)
        self.expand = Linear(self.llm_size, precision=p)
        self.next_query_project = Linear(self.hidden_size, ("mlp", "embed"), precision=p)

    def __call__(
        self, pyramid: Pyramid, query: Float[DeviceArray, "B Q {self.hidden_size}"] | None = None
    ) -> Float[jax.Array, "B {self.num_queries} {self.llm_size}"]:
        """Returns tokens for the language model. query: from next_query; the learned query by default."""
        tokens = self.expand(self.resample(pyramid, query))
        if self.is_initializing():
            self.next_query(tokens)  # video only
        return axes.constrain(tokens, "batch", "tokens", "act_embed")

    def resample(
        self, pyramid: Pyramid, query: Float[DeviceArray, "B Q {self.hidden_size}"] | None = None
    ) -> Float[jax.Array, "B {self.num_queries} {self.hidden_size}"]:
        """Returns the latents after the final norm, before the projection to the language model's width."""
        return self.norm(self.residual_stack(pyramid, query))

    def residual_stack(
        self, pyramid: Pyramid, query: Float[DeviceArray, "B Q {self.hidden_size}"] | None = None
    ) -> Float[jax.Array, "B {self.num_queries} {self.hidden_size}"]:
        """Returns the latents after all layers, before the final norm."""
        levels = pyramid.levels[-self.num_levels :]
        if len(levels) != self.num_levels:
            raise ValueError(f"the perceiver needs {self.num_levels} levels, the pyramid has {len(levels)}")
        batch = levels[0].shape[0]
        query = jnp.broadcast_to(self.query, (batch, *self.query.shape)) if query is None else query
        latents, embed = self.precision.cast(query, self.level_embed)
        for i, level in enumerate(levels):
            features = rearrange(self.local_project[i](level), "b h w c -> b (h w) c") + embed[i]
            latents = self.layers[i](latents, axes.constrain(features, "batch", "tokens", "act_embed"))
        return latents

    def next_query(self, hidden: Float[DeviceArray, "B Q {self.llm_size}"]) -> Float[jax.Array, "B Q {self.hidden_size}"]:
        """Projects the language model's hidden states at the fine-grained tokens to the query of the next frame."""
        return self.next_query_project(hidden)


def table(perceiver: FineGrainedPerceiver) -> Table:
    """Returns the weight table for the released names, which are at the top level of the model.

    Gates are not in the release; their names here are mgvp_layers.layers.N.gate.{0,2} and mgvp_layers.layers.N.gate_mlp.{0,2}.
    """
    rows = Table([Row("query", "temporal_query", Identity()), Row("level_embed", "level_embed.weight", Identity())])
    for i in range(perceiver.num_levels):
        rows += conv_table(f"local_project_{i}", f"local_project.{i}")
        rows += _layer_table(f"mgvp_layers.layers.{i}", perceiver).with_prefix(f"layers_{i}/")
    rows += norm_table("norm", "mgvp_layers.norm") + linear_table("expand", "expanded_seg_query_project")
    return rows + linear_table("next_query_project", "temporal_query_project")


def _layer_table(name: str, perceiver: FineGrainedPerceiver) -> Table:
    rows = norm_table("norm_features", f"{name}.0.norm_media") + norm_table("norm_latents", f"{name}.0.norm_latents")
    rows += linear_table("attention/query", f"{name}.0.to_q", use_bias=False)
    kernels = ("attention/key/kernel", "attention/value/kernel")
    rows += Table([Row(kernels, f"{name}.0.to_kv.weight", FusedQKV(transpose=True, parts=2))])
    rows += linear_table("attention/out", f"{name}.0.to_out", use_bias=False)
    rows += norm_table("norm_mlp", f"{name}.1.0") + feed_forward_table("mlp", f"{name}.1.1", f"{name}.1.3", use_bias=False)
    gates = ("gate",) * (perceiver.gate == "tanh") + ("gate_mlp",) * perceiver.gate_feed_forward
    for gate in gates:
        rows += feed_forward_table(gate, f"{name}.{gate}.0", f"{name}.{gate}.2")
    return rows
