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
from hyperseg_jax.connectors.perceiver import PerceiverLayer, layer_table
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Identity, Row, Table

GATES = ("tanh", "none")


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
            PerceiverLayer(self.num_heads, self.head_dim, self.mlp_ratio, self.gate, self.gate_feed_forward, precision=p)
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
        layer = layer_table(f"mgvp_layers.layers.{i}", perceiver.gate, perceiver.gate_feed_forward)
        rows += layer.with_prefix(f"layers_{i}/")
    rows += norm_table("norm", "mgvp_layers.norm") + linear_table("expand", "expanded_seg_query_project")
    return rows + linear_table("next_query_project", "temporal_query_project")
