"""The layer of a perceiver: latents attend to features (Flamingo, Alayrac et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import ACTIVATIONS, FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import FusedQKV, Row, Table, flatten

GATES = "gates"
"""The Flax collection of the values of gates: nothing is stored unless `apply` is called with mutable=GATES."""


class Gate(nn.Module):
    """tanh(MLP(x)) * x, a weight for each channel. Parts: up, down.

    Only `down` is initialized to zero, so the gate is closed initially, but all parameters are updated within two optimizer
    steps: down in the first, up (through GELU, which has no dead units) in the second.
    The values of tanh are stored in the collection GATES, see `gate_values`.
    """

    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        width = x.shape[-1]
        hidden = ACTIVATIONS["gelu"](Linear(width, ("embed", "mlp"), precision=self.precision, name="up")(x))
        zeros = nn.initializers.zeros
        weight = Linear(width, ("mlp", "embed"), precision=self.precision, kernel_init=zeros, name="down")(hidden)
        values = jnp.tanh(weight)
        self.sow(GATES, "values", jax.lax.stop_gradient(values))
        return values * x


def gate_values(variables: Mapping[str, Any]) -> dict[str, Float[jax.Array, "*B C"]]:
    """Returns the values of each gate that ran, by the path of its parameters. variables: those that `apply` returned, with
    mutable=GATES."""
    return {path.removesuffix("/values"): values for path, (values,) in flatten(variables.get(GATES, {})).items()}


class PerceiverLayer(nn.Module):
    """Latents attend to features and to themselves, then a feed-forward block, with residual connections.

    gate: "tanh" or "none". latent_keys: number of latents, from the first, that are attended to; None: all.
    Parts: norm_features, norm_latents, attention, norm_mlp, mlp, and with gates: gate, gate_mlp.
    """

    num_heads: int
    head_dim: int
    mlp_ratio: int
    gate: str = "none"
    gate_feed_forward: bool = False
    latent_keys: int | None = None
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        latents: Float[DeviceArray, "B Q C"],
        features: Float[DeviceArray, "B N C"],
        mask: Bool[DeviceArray, "B 1 #Q _"] | None = None,
    ) -> Float[jax.Array, "B Q C"]:
        p, width = self.precision, latents.shape[-1]
        query = LayerNorm(precision=p, name="norm_latents")(latents)
        normed = LayerNorm(precision=p, name="norm_features")(features)
        keys = jnp.concatenate([normed, query[:, : self.latent_keys]], axis=1)
        added = MultiHeadAttention(self.num_heads, self.head_dim, False, p, name="attention")(query, keys, keys, mask)
        latents = latents + (Gate(p, name="gate")(added) if self.gate == "tanh" else added)
        normed = LayerNorm(precision=p, name="norm_mlp")(latents)
        added = FeedForward(self.mlp_ratio * width, "gelu", use_bias=False, precision=p, name="mlp")(normed)
        latents = latents + (Gate(p, name="gate_mlp")(added) if self.gate_feed_forward else added)
        return axes.constrain(latents, "batch", "tokens", "act_embed")


def layer_table(name: str, gate: str = "none", gate_feed_forward: bool = False) -> Table:
    """Returns the weight table of a PerceiverLayer. Gates are in no published weights."""
    rows = norm_table("norm_features", f"{name}.0.norm_media") + norm_table("norm_latents", f"{name}.0.norm_latents")
    rows += linear_table("attention/query", f"{name}.0.to_q", use_bias=False)
    kernels = ("attention/key/kernel", "attention/value/kernel")
    rows += Table([Row(kernels, f"{name}.0.to_kv.weight", FusedQKV(transpose=True, parts=2))])
    rows += linear_table("attention/out", f"{name}.0.to_out", use_bias=False)
    rows += norm_table("norm_mlp", f"{name}.1.0") + feed_forward_table("mlp", f"{name}.1.1", f"{name}.1.3", use_bias=False)
    gates = ("gate",) * (gate == "tanh") + ("gate_mlp",) * gate_feed_forward
    for part in gates:
        rows += feed_forward_table(part, f"{name}.{part}.0", f"{name}.{part}.2")
    return rows
