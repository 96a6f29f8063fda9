"""Bilinear sampling and resizing with PyTorch's conventions. Coordinates and weights are always float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, Int, Int32, Shaped

from hyperseg_jax.structs import DeviceArray

Size = Int[DeviceArray, ""] | np.integer | int
"""A number of values, which may be traced."""


def resize_bilinear(x: Float[DeviceArray, "B H W C"], size: tuple[int, int]) -> Float[jax.Array, "B H2 W2 C"]:
    """Resizes an image or feature map.

    size: (H2, W2). The result has x's dtype.
    Corresponds to torch.nn.functional.interpolate(mode="bilinear", align_corners=False), which has no antialiasing.
    """
    return _resize_axis(_resize_axis(x, 1, size[0]), 2, size[1])


def resize_nearest(x: Shaped[DeviceArray, "B H W C"], size: tuple[int, int]) -> Shaped[jax.Array, "B H2 W2 C"]:
    """Resizes a feature map to (H2, W2) by nearest neighbour, as torch.nn.functional.interpolate(mode="nearest") does."""
    for axis, target in zip((1, 2), size, strict=True):
        scale = np.float32(x.shape[axis]) / np.float32(target)
        index = np.minimum((np.arange(target, dtype=np.float32) * scale).astype(np.int32), x.shape[axis] - 1)
        x = jnp.take(x, index, axis=axis, indices_are_sorted=True)
    return x


def linear_weights(source: Size, target: Size, canvas: tuple[int, int]) -> Float32[jax.Array, "_ _"]:
    """Returns the matrix that resizes a line from `source` to `target` values, as resize_bilinear does.

    The sizes may be traced. canvas: shape of the matrix, (most values of the target, most values of the source). Rows beyond
    the target are those of its last value.
    """
    place, values = jnp.minimum(jnp.arange(canvas[0]), jnp.asarray(target) - 1), jnp.arange(canvas[1])
    weights = jnp.zeros(canvas, jnp.float32)
    for value, weight in linear_neighbours(place, source, target):
        weights += jnp.where(values == value[:, None], weight[:, None], 0.0)
    return weights


def linear_neighbours(
    position: Int[DeviceArray, " N"], source: Size, target: Size
) -> list[tuple[Int[jax.Array, " N"], Float32[jax.Array, " N"]]]:
    """Returns the two source indices around target positions, each with its interpolation weight."""
    scale = jnp.float32(source) / jnp.float32(target)  # PyTorch rounds the scale to float32 first
    coordinate = jnp.maximum(scale * (position.astype(jnp.float32) + 0.5) - 0.5, 0.0)
    low = jnp.minimum(coordinate.astype(jnp.int32), source - 1)
    fraction = coordinate - low
    return [(low, 1 - fraction), (jnp.minimum(low + 1, source - 1), fraction)]


def _resize_axis(x: DeviceArray, axis: int, target: int) -> jax.Array:
    source = x.shape[axis]
    if source == target:
        return x
    # The indices are constants, so that each axis needs two row gathers. Float32 as in PyTorch, which rounds the scale first.
    scale = np.float32(source) / np.float32(target)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(position.astype(np.int32), source - 1)
    high = np.minimum(low + 1, source - 1)
    fraction = (position - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    below = jnp.take(x, low, axis=axis, indices_are_sorted=True).astype(jnp.float32)
    above = jnp.take(x, high, axis=axis, indices_are_sorted=True).astype(jnp.float32)
    return (below * (1 - fraction) + above * fraction).astype(x.dtype)


def grid_sample(
    features: Shaped[DeviceArray, "B H W C"], points: Float[DeviceArray, "B P 2"], align_corners: bool = False
) -> Float[jax.Array, "B P C"]:
    """Samples feature maps bilinearly at points; values outside the map are zero.

    features: of any dtype (bool and integers are converted to float32).
    points: (x, y) in 0..1 over the map.
    The result is float32, unless the features have another float dtype.
    All C channels share the points, so stack masks with common points as channels: one gathered row serves all of them.
    Corresponds to torch.nn.functional.grid_sample(2 * points - 1, padding_mode="zeros").
    """
    cells, weights = bilinear_corners(points, features.shape[1:3], align_corners)
    flat = rearrange(features, "b h w c -> b (h w) c")
    corners = rearrange(cells, "b corners p -> b (corners p)")
    values = jax.vmap(lambda table, index: jnp.take(table, index, axis=0, mode="clip"))(flat, corners)
    dtype = features.dtype if jnp.issubdtype(features.dtype, jnp.floating) else jnp.float32
    values = rearrange(values, "b (corners p) c -> b corners p c", corners=4).astype(jnp.float32)
    return jnp.einsum("bkpc,bkp->bpc", values, weights, precision="highest").astype(dtype)


def bilinear_corners(
    points: Float[DeviceArray, "*batch P 2"], size: tuple[int, ...], align_corners: bool = False
) -> tuple[Int32[jax.Array, "*batch 4 P"], Float32[jax.Array, "*batch 4 P"]]:
    """Returns the four cells around each point and their weights, 0 for cells outside the map.

    points: (x, y) in 0..1 over a map of size (H, W). Cells are numbered in row-major order.
    """
    height, width = size
    points = jnp.asarray(points, jnp.float32)
    x, y = (_to_cells(points[..., i], n, align_corners) for i, n in ((0, width), (1, height)))
    x0, y0 = jnp.floor(x), jnp.floor(y)
    fx, fy = x - x0, y - y0
    columns = jnp.stack([x0, x0 + 1, x0, x0 + 1], axis=-2)
    rows = jnp.stack([y0, y0, y0 + 1, y0 + 1], axis=-2)
    weights = jnp.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], axis=-2)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    cells = (jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)).astype(jnp.int32)
    return cells, jnp.where(inside, weights, 0.0)


def _to_cells(position: DeviceArray, cells: int, align_corners: bool) -> jax.Array:
    """Converts a position in 0..1 to units of cells, with 0 at the center of the first cell."""
    return position * (cells - 1) if align_corners else position * cells - 0.5
