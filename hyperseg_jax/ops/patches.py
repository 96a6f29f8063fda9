"""Bilinear sampling from tables of 2x2 patches.

Every 2x2 patch of a feature map is packed into one row, so that a point needs one gathered row instead of four.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped, UInt, UInt32

from hyperseg_jax.structs import DeviceArray


@jax.custom_vjp
def sample_patches(maps: Float[DeviceArray, "B H W"], points: Float[DeviceArray, "B P 2"]) -> Float32[jax.Array, "B P"]:
    """Samples maps of one channel bilinearly, each at its own points (x, y) in 0..1; values outside a map are zero. The points
    have no gradient. Maps are processed in a loop, because the table of one map fits in fast memory."""
    return _sample_forward(maps, points)[0]


def _sample_forward(maps, points):
    shape = maps.shape[1:]

    def sample_map(inputs):
        cells, points = inputs
        index, fractions, _ = locate_patches(points.T, shape)
        rows = gather_rows(pack_patches(cells.reshape(1, -1, 1), shape), index[None])[0].astype(jnp.float32)
        return jnp.sum(rows * bilinear_weights(fractions), axis=-1)

    return jax.lax.map(sample_map, (maps, points)), (maps, points)


def _sample_backward(saved, gradient):
    maps, points = saved
    shape = maps.shape[1:]

    def scatter_map(inputs):
        points, gradient = inputs
        index, fractions, _ = locate_patches(points.T, shape)
        rows = scatter_rows((gradient[..., None] * bilinear_weights(fractions))[None], index[None], shape)
        return unpack_patches(rows, shape).reshape(shape).astype(maps.dtype)

    return jax.lax.map(scatter_map, (points, gradient)), jnp.zeros_like(points)


sample_patches.defvjp(_sample_forward, _sample_backward)


def pack_labels(labels: UInt[DeviceArray, "*B H W"]) -> UInt32[jax.Array, "*B words rows"]:
    """Packs the labels of each 2x2 patch into 32 bits (one word, uint8 labels) or 64 bits (two words, uint16). The rows are
    those of pack_patches."""
    bits = 8 * labels.dtype.itemsize
    padded = jnp.pad(labels, [*[(0, 0)] * (labels.ndim - 2), (1, 1), (1, 1)]).astype(jnp.uint32)
    height, width = padded.shape[-2] - 1, padded.shape[-1] - 1
    corners = [padded[..., dy : dy + height, dx : dx + width] for dy in (0, 1) for dx in (0, 1)]
    per_word = 32 // bits
    words = [
        functools.reduce(jnp.bitwise_or, [corner << (bits * k) for k, corner in enumerate(corners[first : first + per_word])])
        for first in range(0, 4, per_word)
    ]
    return rearrange(jnp.stack(words, axis=-3), "... words h w -> ... words (h w)")


def unpack_labels(words: UInt32[DeviceArray, "*B words P"]) -> list[UInt32[jax.Array, "*B P"]]:
    """Returns the labels of the four corners of patches."""
    count = words.shape[-2]
    bits = 8 * count
    return [(words[..., k * bits // 32, :] >> (k * bits % 32)) & (2**bits - 1) for k in range(4)]


def pack_patches(maps: Shaped[DeviceArray, "B cells D"], shape: tuple[int, int]) -> Shaped[jax.Array, "B rows lanes"]:
    """Packs a map [B, H * W, D] to a table [B, (H + 1) * (W + 1), 4 * D] of the 2x2 patches around all corners of cells, with
    zero padding."""
    height, width = shape
    maps = jnp.pad(rearrange(maps, "b (h w) d -> b h w d", h=height), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [maps[:, dy : dy + height + 1, dx : dx + width + 1] for dy in (0, 1) for dx in (0, 1)]
    return rearrange(jnp.concatenate(patches, axis=-1), "b h w lanes -> b (h w) lanes")


def unpack_patches(packed: Float[DeviceArray, "B rows lanes"], shape: tuple[int, int]) -> Float[jax.Array, "B cells D"]:
    """The transpose of pack_patches: sums the values of each cell over the four patches that contain it."""
    height, width = shape
    patches = rearrange(packed, "b (h w) (dy dx d) -> b h w dy dx d", h=height + 1, dy=2, dx=2)
    corners = [patches[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width, dy, dx] for dy in (0, 1) for dx in (0, 1)]
    return rearrange(sum(corners[1:], corners[0]), "b h w d -> b (h w) d")


def locate_patches(
    locations: Float[DeviceArray, "2 ..."], shape: tuple[int, int]
) -> tuple[Int32[jax.Array, " *B"], tuple[Float[jax.Array, " *B"], Float[jax.Array, " *B"]], Bool[jax.Array, " *B"]]:
    """Returns, for each point, the row of its 2x2 patch in the packed table, its fractional position (x, y) inside the patch,
    and whether it overlaps the map. A point outside the map is moved to the border, where the packed table is zero."""
    height, width = shape
    x, y = locations[0] * width - 0.5, locations[1] * height - 0.5
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = jnp.clip(x, -1, width), jnp.clip(y, -1, height)
    x0, y0 = jnp.minimum(jnp.floor(x), width - 1), jnp.minimum(jnp.floor(y), height - 1)
    index = ((y0 + 1) * (width + 1) + x0 + 1).astype(jnp.int32)
    return index, (x - x0, y - y0), inside


def bilinear_weights(fractions: tuple[Float[DeviceArray, " *B"], Float[DeviceArray, " *B"]]) -> Float[jax.Array, "*B 4"]:
    """Returns bilinear weights of the four corners of the patch."""
    fx, fy = fractions
    return jnp.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], axis=-1)


def gather_rows(
    table: Shaped[DeviceArray, "B rows lanes"], index: Int[DeviceArray, "B ..."]
) -> Shaped[jax.Array, "B *queries lanes"]:
    """Gathers rows of a table."""
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(table, index)


def scatter_rows(
    rows: Float[DeviceArray, "B *queries lanes"], index: Int[DeviceArray, "B ..."], shape: tuple[int, int]
) -> Float32[jax.Array, "B rows lanes"]:
    """The transpose of gather_rows: adds rows into a table of zeros, in float32."""
    table = jnp.zeros(((shape[0] + 1) * (shape[1] + 1), rows.shape[-1]), jnp.float32)
    return jax.vmap(lambda added, at: table.at[at].add(added, mode="promise_in_bounds"))(rows, index)
