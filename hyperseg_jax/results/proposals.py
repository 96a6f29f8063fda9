"""Filters the masks that are proposed for a grid of points, as SAM's automatic mode does (Kirillov et al. 2023)."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from hyperseg_jax.results.mask_resize import MaskResize, resize_masks
from hyperseg_jax.structs import DeviceArray


@flax.struct.dataclass
class Proposals:
    """Masks at the image's size that are proposed by the points of one chunk.

    packed: eight pixels per byte. boxes: first and last column and row of each mask: left, top, right, bottom. stability: the
    IoU of the masks at two thresholds of the logits. kept: False for masks that were filtered out; their values are 0.
    """

    packed: UInt8[jax.Array, "N H W8"]
    boxes: Int32[jax.Array, "N 4"]
    stability: Float32[jax.Array, " N"]
    scores: Float32[jax.Array, " N"]
    kept: Bool[jax.Array, " N"]


def filter_proposals(
    logits: Float[DeviceArray, "N h w"],
    scores: Float[DeviceArray, " N"],
    valid: Bool[DeviceArray, " N"],
    resize: MaskResize,
    thresholds: Float32[DeviceArray, " 3"],
) -> Proposals:
    """Resizes masks to the image, and keeps those with a high score and a stable border.

    thresholds: smallest score; smallest stability; offset of the logits at which the stability is measured. A threshold of 0
    keeps everything. Masks with a low score are not resized.
    """
    least_score, least_stability, offset = thresholds
    good = valid & ((scores > least_score) | (least_score <= 0))
    height, width = resize.inside.shape

    def measure(mask: Float[jax.Array, "h w"]) -> tuple[jax.Array, jax.Array, jax.Array]:
        resized = jnp.where(resize.inside, resize_masks(mask, resize), -jnp.inf)
        inner, outer = (resized > offset).sum(), (resized > -offset).sum()
        positive = resized > 0
        return jnp.packbits(positive, axis=-1), find_box(positive), inner / jnp.maximum(outer, 1)

    def nothing(_: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.zeros((height, width // 8), jnp.uint8), jnp.zeros(4, jnp.int32), jnp.float32(0)

    packed, boxes, stability = jax.lax.map(lambda each: jax.lax.cond(each[1], measure, nothing, each[0]), (logits, good))
    kept = good & ((stability >= least_stability) | (least_stability <= 0))
    return Proposals(packed, boxes, stability, scores.astype(jnp.float32), kept)


def find_box(mask: Bool[DeviceArray, "H W"]) -> Int32[jax.Array, " 4"]:
    """Returns the first and last column and row of a mask: left, top, right, bottom; zeros if it is empty."""
    columns, rows = mask.any(0), mask.any(1)
    first = [jnp.argmax(line) for line in (columns, rows)]
    last = [len(line) - 1 - jnp.argmax(line[::-1]) for line in (columns, rows)]
    return jnp.where(columns.any(), jnp.stack([*first, *last]), 0).astype(jnp.int32)


def suppress_overlaps(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, " N"], threshold: float
) -> Int[np.ndarray, " _"]:
    """Returns the indices of the boxes that greedy non-maximum suppression keeps, best score first. threshold: a box is
    dropped if its IoU with a better one is larger."""
    left, top, right, bottom = np.asarray(boxes, np.float64).T
    area = (right - left) * (bottom - top)
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        union = area[best] + area[rest] - common
        order = rest[common <= threshold * union]
    return np.asarray(kept, int)
