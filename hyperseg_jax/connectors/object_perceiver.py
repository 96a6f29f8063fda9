"""The object-aware video perceiver: a fixed number of tokens for each reference frame (InstructSeg, arXiv 2412.14006)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.connectors.perceiver import PerceiverLayer, layer_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table


class ObjectPerceiver(nn.Module):
    """Resamples the tokens of each frame to num_queries tokens. Frames are independent, and have the same initial latents.

    Parts: query, layers_i, norm.
    """

    hidden_size: int
    num_queries: int = 128
    num_layers: int = 3
    num_heads: int = 8
    head_dim: int = 128
    mlp_ratio: int = 2
    precision: Precision = Precision()

    def setup(self) -> None:
        init = axes.named(nn.initializers.normal(1.0), "queries", "embed")
        self.query = self.param("query", init, (self.num_queries, self.hidden_size), self.precision.params)
        self.layers = [
            PerceiverLayer(self.num_heads, self.head_dim, self.mlp_ratio, precision=self.precision)
            for _ in range(self.num_layers)
        ]
        self.norm = LayerNorm(precision=self.precision)

    def __call__(
        self,
        tokens: Float[DeviceArray, "B T N D"],
        latents: Float[DeviceArray, "B T Q D"] | None = None,
        valid: Bool[DeviceArray, "B N"] | None = None,
    ) -> Float[jax.Array, "B T Q D"]:
        """tokens: image tokens and text embeddings of each frame. latents: the learned query by default. valid: False for
        padding tokens."""
        batch, frames = tokens.shape[:2]
        latents = jnp.broadcast_to(self.query, (batch, frames, *self.query.shape)) if latents is None else latents
        tokens, latents = (rearrange(x, "b t n d -> (b t) n d") for x in self.precision.cast(tokens, latents))
        mask = None
        if valid is not None:
            keys = jnp.concatenate([valid, jnp.ones((batch, latents.shape[1]), bool)], axis=1)
            mask = jnp.repeat(keys, frames, axis=0)[:, None, None]
        for layer in self.layers:
            latents = layer(latents, axes.constrain(tokens, "batch", "tokens", "act_embed"), mask)
        return rearrange(self.norm(latents), "(b t) q d -> b t q d", b=batch)


def table(perceiver: ObjectPerceiver) -> Table:
    """Returns the weight table for the published names, which are at the top level of the model."""
    return Table([Row("query", "temporal_query", Identity())]) + stack_table(perceiver).with_prefix("", "ovp_layers.")


def stack_table(perceiver: ObjectPerceiver) -> Table:
    """Returns the weight table of the layers and the norm."""
    rows = norm_table("norm", "norm")
    for i in range(perceiver.num_layers):
        rows += layer_table(f"layers.{i}").with_prefix(f"layers_{i}/")
    return rows
