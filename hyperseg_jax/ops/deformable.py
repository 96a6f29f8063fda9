"""Multi-scale deformable sampling without a compiled extension.

Deformable DETR (Zhu et al. 2021, equation 2). The memory layout is optimized for TPUs: every 2x2 patch of a head's map is
packed into one row of 4 * D lanes (128 lanes at D = 32), so that a point needs one gathered row instead of four; the points
axis is before the queries axis. Heads are processed in a loop, because the table of one head and level fits in fast memory.
The backward pass gathers the rows again instead of saving them, and scatters in float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax.ops.patches import (
    bilinear_weights,
    gather_rows,
    locate_patches,
    pack_patches,
    scatter_rows,
    unpack_patches,
)
from hyperseg_jax.structs import DeviceArray

Shapes = tuple[tuple[int, int], ...]


def deformable_sampling(
    value: Float[DeviceArray, "B S heads D"],
    shapes: Shapes,
    locations: Float[DeviceArray, "B Q heads levels points 2"],
    weights: Float[DeviceArray, "B Q heads levels points"],
) -> Float[jax.Array, "B Q C"]:
    """Returns the attention-weighted sum of bilinear samples of all levels.

    value: the maps of all levels flattened row by row and concatenated.
    shapes: ((H, W), ...) of each level, static; S must be their total area.
    locations: (x, y) in 0..1 over the level; values outside are zero.
    Returns [B, Q, heads * D] of value's dtype; coordinates and sums are float32.
    Corresponds to ms_deform_attn_core_pytorch (grid_sample, zeros, align_corners=False).
    """
    shapes = tuple((int(height), int(width)) for height, width in shapes)
    area = sum(height * width for height, width in shapes)
    if area != value.shape[1] or len(shapes) != locations.shape[3]:
        raise ValueError(
            f"levels {shapes} have {area} cells; value has {value.shape[1]} and locations have {locations.shape[3]} levels"
        )
    value = rearrange(value, "b s heads d -> heads b s d")
    locations = rearrange(locations.astype(jnp.float32), "b q heads levels points xy -> heads levels xy b points q")
    weights = rearrange(weights.astype(jnp.float32), "b q heads levels points -> heads levels b points q")
    return rearrange(_sample(shapes, value, locations, weights), "heads b q d -> b q (heads d)")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample(shapes: Shapes, value: DeviceArray, locations: DeviceArray, weights: DeviceArray) -> jax.Array:
    """Samples all heads.

    value [heads, B, S, D], locations [heads, levels, 2, B, points, Q], weights [heads, levels, B, points, Q].
    """
    channels = value.shape[-1]

    def head(inputs):
        value, locations, weights = inputs
        total = 0.0
        for level, (maps, shape) in enumerate(zip(_split_levels(value, shapes), shapes, strict=True)):
            table = pack_patches(maps, shape)
            index, fractions, _ = locate_patches(locations[level], shape)
            corner_weights = bilinear_weights(fractions) * weights[level][..., None]
            # One gather per point, summed immediately, so that no array larger than the result is written.
            for point in range(index.shape[1]):
                rows = gather_rows(table, index[:, point]).astype(jnp.float32)
                for corner in range(4):
                    part = rows[..., corner * channels : (corner + 1) * channels]
                    total += part * corner_weights[:, point, :, corner, None]
        return total.astype(value.dtype)

    return jax.lax.map(head, (value, locations, weights))


def _sample_forward(shapes, value, locations, weights):
    return _sample(shapes, value, locations, weights), (value, locations, weights)


def _sample_backward(shapes, saved, gradient):
    channels = saved[0].shape[-1]
    # Sums the lanes of each corner by a matrix product, which is faster than a reduction over few lanes on every backend.
    corners = jnp.repeat(jnp.eye(4), channels, axis=0)  # [4 * D, 4]

    def head(inputs):
        value, locations, weights, gradient = inputs
        gradient = gradient.astype(jnp.float32)[:, None]  # [B, 1, Q, D]
        d_value, d_locations, d_weights = [], [], []
        for level, (maps, shape) in enumerate(zip(_split_levels(value, shapes), shapes, strict=True)):
            index, (fx, fy), inside = locate_patches(locations[level], shape)
            rows = gather_rows(pack_patches(maps, shape), index).astype(jnp.float32) * jnp.tile(gradient, 4)
            dots = jnp.matmul(rows, corners, precision="highest")  # [B, points, Q, 4]
            corner_weights = bilinear_weights((fx, fy))
            d_weights.append(jnp.sum(corner_weights * dots, axis=-1))
            top_left, top_right, low_left, low_right = jnp.moveaxis(dots, -1, 0)
            slope_x = (1 - fy) * (top_right - top_left) + fy * (low_right - low_left)
            slope_y = (1 - fx) * (low_left - top_left) + fx * (low_right - top_right)
            valid_weights = jnp.where(inside, weights[level], 0.0)
            d_locations.append(jnp.stack([slope_x * shape[1] * valid_weights, slope_y * shape[0] * valid_weights]))
            corner_weights = corner_weights * weights[level][..., None]
            value_gradients = rearrange(
                corner_weights[..., None] * gradient[..., None, :], "b points q corners d -> b points q (corners d)"
            )
            d_value.append(unpack_patches(scatter_rows(value_gradients, index, shape), shape))
        d_value = jnp.concatenate(d_value, axis=1).astype(value.dtype)
        return d_value, jnp.stack(d_locations), jnp.stack(d_weights)

    return jax.lax.map(head, (*saved, gradient))


_sample.defvjp(_sample_forward, _sample_backward)


def _split_levels(value: DeviceArray, shapes: Shapes) -> list[jax.Array]:
    """Splits [B, S, D] into one [B, H * W, D] per level."""
    maps, start = [], 0
    for height, width in shapes:
        maps.append(value[:, start : start + height * width])
        start += height * width
    return maps
