"""Mask logits of a model at the size of the image, on the device. An image of a new size compiles nothing new: sizes are
rounded up to a canvas, and how an image lies in the model's input is data."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import DeviceArray

STEP = 128
"""Pixels that the sides of a canvas are multiples of."""


def canvas(height: int, width: int) -> tuple[int, int]:
    """The canvas that holds an image of this size at its top left."""
    return -(-height // STEP) * STEP, -(-width // STEP) * STEP


def geometry_array(geometry: Geometry) -> Int32[np.ndarray, "2 3"]:
    """A geometry as data: for height and width the original size, the filled part and the padded whole."""
    return np.stack([geometry.original, geometry.filled, geometry.padded], axis=1).astype(np.int32)


@flax.struct.dataclass
class MaskResize:
    """From mask logits [h, w] to an image on a canvas [H, W]. rows and columns are zero beyond the image. inside: which pixels
    are the image's."""

    rows: Float32[jax.Array, "H h"]
    columns: Float32[jax.Array, "W w"]
    inside: Bool[jax.Array, "H W"]


def mask_resize(geometry: Int[DeviceArray, "2 3"], source: tuple[int, int], size: tuple[int, int]) -> MaskResize:
    """source: (h, w). size: (H, W).

    The published code resizes logits to the padded size, cuts the padding off, and resizes them to the image; here both are one
    product a side. Bilinear as torch's (align_corners False, no antialias)."""
    rows, columns = (_weights(geometry[axis], source[axis], size[axis]) for axis in (0, 1))
    here = [jnp.arange(size[axis]) < geometry[axis, 0] for axis in (0, 1)]
    return MaskResize(rows, columns, here[0][:, None] & here[1])


def resize_masks(logits: Float[DeviceArray, "*B h w"], resize: MaskResize) -> Float32[jax.Array, "*B H W"]:
    """The logits on the canvas, zero beyond the image."""
    tall = jnp.einsum("Hh,...hw->...Hw", resize.rows, logits.astype(jnp.float32), precision="highest")
    return jnp.einsum("...Hw,Ww->...HW", tall, resize.columns, precision="highest")


Side = Int[DeviceArray, ""] | np.integer | int


def _weights(side: Int[DeviceArray, " 3"], source: int, target: int) -> jax.Array:
    """float32 [target, source]: how much each cell of one side counts at each pixel. side: (original, filled, padded)."""
    original, filled, padded = side
    pixel, cells = jnp.arange(target), jnp.arange(source)
    weights = jnp.zeros((target, source), jnp.float32)
    for position, share in _neighbours(pixel, filled, original):
        for cell, part in _neighbours(position, source, padded):
            weights += jnp.where(cells == cell[:, None], (share * part)[:, None], 0.0)
    return jnp.where((pixel < original)[:, None], weights, 0.0)


def _neighbours(position: jax.Array, source: Side, target: Side) -> list[tuple[jax.Array, jax.Array]]:
    """The two places among `source` that a position among `target` lies between, each with its weight."""
    scale = jnp.float32(source) / jnp.float32(target)  # torch rounds the scale first
    at = jnp.maximum(scale * (position.astype(jnp.float32) + 0.5) - 0.5, 0.0)
    low = jnp.minimum(at.astype(jnp.int32), source - 1)
    part = at - low
    return [(low, 1 - part), (jnp.minimum(low + 1, source - 1), part)]
