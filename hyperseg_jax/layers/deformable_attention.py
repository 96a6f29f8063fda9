"""Multi-scale deformable attention (Zhu et al. 2021)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import save_activation
from hyperseg_jax.ops.deformable import Shapes, deformable_sampling
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table


class DeformableAttention(nn.Module):
    """Each query attends to num_points points around its reference position on each feature map.

    shapes: ((H, W), ...) of the maps. value: the flattened maps. reference: (x, y) of each query in 0..1. Corresponds to
    MSDeformAttn. Parts: sampling_offsets (heads, levels, points, xy), attention_weights (heads, levels * points), value,
    out. Offsets and weights are always float32.
    """

    num_heads: int
    num_points: int
    shapes: Shapes
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, query: Float[DeviceArray, "B Q C"], value: Float[DeviceArray, "B S C"], reference: Float[DeviceArray, "Q 2"]
    ) -> Float[jax.Array, "B Q C"]:
        width = query.shape[-1]
        heads, levels, points = self.num_heads, len(self.shapes), self.num_points
        float32 = dataclasses.replace(self.precision, compute="float32")
        zeros = nn.initializers.zeros
        offsets = Linear(
            heads * levels * points * 2,
            ("embed", "points"),
            precision=float32,
            kernel_init=zeros,
            bias_init=self._init_offsets,
            name="sampling_offsets",
        )(query)
        weights = Linear(
            heads * levels * points, ("embed", "points"), precision=float32, kernel_init=zeros, name="attention_weights"
        )(query)
        value = Linear(width, ("embed", "heads"), precision=self.precision, name="value")(value)

        weights = jax.nn.softmax(rearrange(weights, "b q (heads points) -> b q heads points", heads=heads), axis=-1)
        weights = rearrange(weights, "b q heads (levels points) -> b q heads levels points", levels=levels)
        cells = jnp.asarray([(w, h) for h, w in self.shapes], jnp.float32)  # [levels, 2]
        sizes = {"heads": heads, "levels": levels, "points": points}
        offsets = rearrange(offsets, "b q (heads levels points xy) -> b q heads levels points xy", **sizes) / cells[:, None]
        locations = reference.astype(jnp.float32)[:, None, None, None] + offsets
        value = rearrange(value, "b s (heads d) -> b s heads d", heads=heads)
        sampled = deformable_sampling(value, self.shapes, locations, weights)
        sampled = save_activation(axes.constrain(sampled, "batch", "tokens", "act_heads"))
        return Linear(width, ("heads", "embed"), precision=self.precision, name="out")(sampled)

    def _init_offsets(self, key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
        """Returns the published bias initialization: each head has its own direction, point p is at distance p + 1."""
        angle = 2 * np.pi * np.arange(self.num_heads) / self.num_heads
        ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        ray /= np.abs(ray).max(-1, keepdims=True)
        distance = np.arange(1, self.num_points + 1)[:, None]
        rays = np.broadcast_to(ray[:, None, None] * distance, (self.num_heads, len(self.shapes), self.num_points, 2))
        return jnp.asarray(rays.reshape(shape), dtype)


def cell_centers(shapes: Shapes) -> Float32[np.ndarray, "S 2"]:
    """Returns (x, y) in 0..1 of the center of every cell of the maps, in the order of the flattened tokens."""
    grids = []
    for height, width in shapes:
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        grids.append(rearrange([x, y], "xy h w -> (h w) xy"))
    return np.concatenate(grids).astype(np.float32)


def deformable_attention_table(path: str, name: str) -> Table:
    """Returns the weight table for MSDeformAttn."""
    parts = {
        "sampling_offsets": "sampling_offsets",
        "attention_weights": "attention_weights",
        "value": "value_proj",
        "out": "output_proj",
    }
    return Table.join(linear_table(f"{path}/{ours}", f"{name}.{theirs}") for ours, theirs in parts.items())
