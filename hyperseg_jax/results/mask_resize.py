"""Resizes mask logits of a model to the image size, on the device.

Image sizes are rounded up to a canvas, and the position of the image in the model input is data, so a new image size rarely
triggers a recompilation."""

from __future__ import annotations

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from hyperseg_jax.ops.sampling import linear_neighbours, linear_weights
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.untrusted import limits

Filter = Literal["bilinear", "bicubic", "cells"]
STRIDE = 4
"""Pixels of the padded image per mask logit, where the last filter is bicubic."""
STEP = 128
"""The sides of a canvas are multiples of this many pixels."""


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Returns (height, width) of the canvas for an image of this size, which lies at its top left."""
    return -(-height // STEP) * STEP, -(-width // STEP) * STEP


def check_canvas(height: int, width: int, where: str) -> None:
    """Raises UserError if an image is so thin that its canvas exceeds limits.pixels. where: the image, for the message."""
    limits.check_limit("pixels", max(height, STEP) * max(width, STEP), where, f"pixels with sides of at least {STEP}")


def geometry_array(geometry: Geometry) -> Int32[np.ndarray, "2 3"]:
    """Returns a geometry as an array: (original, filled, padded) sizes for height and width."""
    return np.stack([geometry.original, geometry.filled, geometry.padded], axis=1).astype(np.int32)


@flax.struct.dataclass
class MaskResize:
    """Resize matrices from mask logits [h, w] to a canvas [H, W].

    rows, columns: interpolation weights, zero beyond the image. inside: True at pixels of the image.
    """

    rows: Float32[jax.Array, "H h"]
    columns: Float32[jax.Array, "W w"]
    inside: Bool[jax.Array, "H W"]


def make_mask_resize(
    geometry: Int[DeviceArray, "2 3"], source: tuple[int, int], size: tuple[int, int], last: Filter = "bilinear"
) -> MaskResize:
    """Returns the resize matrices of an image. source: (h, w) of the logits. size: (H, W) of the canvas.

    The published code resizes logits to the padded size, crops the padding, and resizes the result to the image. Both steps
    are one matrix per side here. The first is bilinear as in PyTorch (align_corners False, no antialias). last: the filter of
    the second; "bicubic" has antialias, and the padded size must be STRIDE times that of the logits. "cells" has one bilinear
    step: from the cells that the image touches, however little of the last one, to the image.
    """
    weights = {"bilinear": _weights, "bicubic": _bicubic_weights, "cells": _cell_weights}[last]
    rows, columns = (weights(geometry[axis], source[axis], size[axis]) for axis in (0, 1))
    inside_axis = [jnp.arange(size[axis]) < geometry[axis, 0] for axis in (0, 1)]
    return MaskResize(rows, columns, inside_axis[0][:, None] & inside_axis[1])


def resize_masks(logits: Float[DeviceArray, "*B h w"], resize: MaskResize) -> Float32[jax.Array, "*B H W"]:
    """Resizes logits to the canvas; they are zero beyond the image."""
    tall = jnp.einsum("Hh,...hw->...Hw", resize.rows, logits.astype(jnp.float32), precision="highest")
    return jnp.einsum("...Hw,Ww->...HW", tall, resize.columns, precision="highest")


def _weights(side: Int[DeviceArray, " 3"], source: int, target: int) -> jax.Array:
    """Returns interpolation weights of one side, float32 [target, source]. side: (original, filled, padded)."""
    original, filled, padded = side
    pixel, cells = jnp.arange(target), jnp.arange(source)
    weights = jnp.zeros((target, source), jnp.float32)
    for position, weight in linear_neighbours(pixel, filled, original):
        for cell, cell_weight in linear_neighbours(position, source, padded):
            weights += jnp.where(cells == cell[:, None], (weight * cell_weight)[:, None], 0.0)
    return jnp.where((pixel < original)[:, None], weights, 0.0)


def _cell_weights(side: Int[DeviceArray, " 3"], source: int, target: int) -> jax.Array:
    """Returns the weights of one side for a bilinear step from the cells of the image, float32 [target, source]."""
    original, filled, padded = side
    weights = linear_weights(-(-filled * source // padded), original, (target, source))
    return jnp.where((jnp.arange(target) < original)[:, None], weights, 0.0)


def _bicubic_weights(side: Int[DeviceArray, " 3"], source: int, target: int) -> jax.Array:
    """Returns the weights of one side for a bicubic second step with antialias, float32 [target, source]: Keys' filter with
    a = -0.5, widened if it reduces the size, and normalized at the border (torch's interpolate with antialias=True)."""
    original, filled, _ = side
    pixel, position = jnp.arange(target)[:, None], jnp.arange(STRIDE * source)
    scale = filled.astype(jnp.float32) / original
    wide, center = jnp.maximum(scale, 1.0), scale * (pixel + 0.5)
    first = jnp.maximum((center - 2 * wide + 0.5).astype(jnp.int32), 0)
    last = jnp.minimum((center + 2 * wide + 0.5).astype(jnp.int32), filled)
    distance = jnp.abs((position + 0.5 - center) / wide)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    weights = jnp.where((position >= first) & (position < last), weights, 0.0)
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-6)
    cells = jnp.zeros((STRIDE * source, source), jnp.float32)
    for cell, weight in linear_neighbours(position, source, STRIDE * source):
        cells += jnp.where(jnp.arange(source) == cell[:, None], weight[:, None], 0.0)
    resized = jnp.einsum("tp,ps->ts", weights, cells, precision="highest")
    return jnp.where(pixel < original, resized, 0.0)
