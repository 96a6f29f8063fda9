"""Resizes mask logits of a model to the image size, on the device.

Image sizes are rounded up to a canvas, and the position of the image in the model input is data, so a new image size rarely
triggers a recompilation."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import DeviceArray

STEP = 128
"""Sides of a canvas above this many pixels are multiples of it."""


def canvas(height: int, width: int) -> tuple[int, int]:
    """Returns (height, width) of the canvas for an image of this size, which lies at its top left.

    A side below STEP is rounded up to a power of two, so that the canvas of a very thin image is not many times as large.
    """
    round_up = lambda side: -(-side // STEP) * STEP if side > STEP else 1 << (side - 1).bit_length()
    return round_up(height), round_up(width)


def geometry_array(geometry: Geometry) -> Int32[np.ndarray, "2 3"]:
    """Returns a geometry as an array: (original, filled, padded) sizes for height and width."""
    return np.stack([geometry.original, geometry.filled, geometry.padded], axis=1).astype(np.int32)


@flax.struct.dataclass
class AxisResize:
    """The two resizes of one image side, as data; lists the axes of its arrays.

    Each of N target pixels lies between two pixels of the padded size, and each of these between two cells of the logits.
    cells: the four cells, [pixel of the padded size, cell, target]. cell_fractions: position between the two cells.
    fractions: position between the two pixels of the padded size. All are those of PyTorch's bilinear resize.
    """

    cells: Int32[jax.Array, "2 2 N"]
    cell_fractions: Float32[jax.Array, "2 N"]
    fractions: Float32[jax.Array, " N"]


@flax.struct.dataclass
class MaskResize:
    """The resize from mask logits [h, w] to a canvas [H, W]. inside: True at pixels of the image."""

    rows: AxisResize
    columns: AxisResize
    inside: Bool[jax.Array, "H W"]

    def row_block(self, first: Int[DeviceArray, ""], rows: int) -> MaskResize:
        """Returns the resize to canvas rows first..first + rows - 1."""
        cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, first, rows, axis)
        return MaskResize(jax.tree.map(lambda x: cut(x, -1), self.rows), self.columns, cut(self.inside, 0))


def mask_resize(geometry: Int[DeviceArray, "2 3"], source: tuple[int, int], size: tuple[int, int]) -> MaskResize:
    """Returns the resize of an image. source: (h, w) of the logits. size: (H, W) of the canvas.

    The published code resizes logits to the padded size, crops the padding, and resizes the result to the image. Bilinear as
    in PyTorch (align_corners False, no antialias).
    """
    rows, columns = (_axis_resize(geometry[axis], source[axis], size[axis]) for axis in (0, 1))
    inside_axis = [jnp.arange(size[axis]) < geometry[axis, 0] for axis in (0, 1)]
    return MaskResize(rows, columns, inside_axis[0][:, None] & inside_axis[1])


def resize_masks(logits: Float[DeviceArray, "*B h w"], resize: MaskResize) -> Float32[jax.Array, "*B H W"]:
    """Resizes logits to the canvas; they are zero beyond the image.

    Interpolates in PyTorch's order (columns, rows, columns, rows), so that values round as there: a pixel that two queries
    claim with almost the same probability goes to the same query.
    """
    rows, columns = resize.rows, resize.columns
    logits = jnp.asarray(logits, jnp.float32)
    if rows.cells.size < logits.shape[-2]:  # fewer rows are used than there are, as for a block of rows or a thin image
        logits = jnp.take(logits, rows.cells.reshape(-1), axis=-2)
        rows = rows.replace(cells=jnp.arange(rows.cells.size).reshape(rows.cells.shape))
    column = lambda cell: jnp.take(logits, columns.cells[:, cell], axis=-1)  # [..., h, 2, W]
    wide = _lerp(column(0), column(1), columns.cell_fractions)
    row = lambda cell: jnp.take(wide, rows.cells[:, cell], axis=-3)  # [..., 2, H, 2, W]
    padded = _lerp(row(0), row(1), rows.cell_fractions[:, :, None, None])
    tall = _lerp(padded[..., 0, :], padded[..., 1, :], columns.fractions)
    image = _lerp(tall[..., 0, :, :], tall[..., 1, :, :], rows.fractions[:, None])
    return jnp.where(resize.inside, image, 0.0)


Side = Int[DeviceArray, ""] | np.integer | int


def _axis_resize(side: Int[DeviceArray, " 3"], source: int, target: int) -> AxisResize:
    """Returns the resizes of one side. side: (original, filled, padded) sizes."""
    original, filled, padded = side
    pixels, fractions = _neighbours(jnp.arange(target), filled, original)
    cells, cell_fractions = _neighbours(pixels, source, padded)
    return AxisResize(jnp.swapaxes(cells, 0, 1), cell_fractions, fractions)


def _neighbours(
    position: Int[DeviceArray, " *n"], source: Side, target: Side
) -> tuple[Int32[jax.Array, "2 ..."], Float32[jax.Array, " *n"]]:
    """Returns the two source indices around a target position, and the position between them."""
    scale = jnp.float32(source) / jnp.float32(target)  # PyTorch rounds the scale to float32 first
    coordinate = jnp.maximum(scale * (position.astype(jnp.float32) + 0.5) - 0.5, 0.0)
    low = jnp.minimum(coordinate.astype(jnp.int32), source - 1)
    return jnp.stack([low, jnp.minimum(low + 1, source - 1)]), coordinate - low


def _lerp(low: jax.Array, high: jax.Array, fraction: jax.Array) -> jax.Array:
    return low * (1 - fraction) + high * fraction
