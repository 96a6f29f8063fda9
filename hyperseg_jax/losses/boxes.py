"""The losses of predicted boxes and of the quality that is predicted for them (DETR, IDOL).

Boxes are (center x, center y, width, height) in 0..1 of the padded square. Those of targets are computed from their segments.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, UInt

from hyperseg_jax.structs import DeviceArray

Boxes = Float[DeviceArray, "*#B 4"]


def segment_boxes(
    segments: UInt[DeviceArray, "B P H W"], planes: Int[DeviceArray, "B N"]
) -> tuple[Float32[jax.Array, "B N 4"], Bool[jax.Array, "B N"]]:
    """Returns the box around the pixels of each target, and whether it has any. segments, planes: see MaskTargets. The box of
    a target without pixels is zero."""

    def extent(hit: Bool[DeviceArray, "B S"]) -> tuple[jax.Array, jax.Array]:
        """Returns the first and the last + 1 of the rows or columns that are hit, in 0..1."""
        size = hit.shape[1]
        return jnp.argmax(hit, axis=1) / size, 1 - jnp.argmax(hit[:, ::-1], axis=1) / size

    def box_of_target(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        plane = jax.vmap(lambda maps, index: maps[index])(segments, planes[:, n])
        pixels = plane == (n + 1).astype(segments.dtype)
        (left, right), (top, bottom), seen = extent(pixels.any(1)), extent(pixels.any(2)), pixels.any((1, 2))
        box = jnp.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], axis=-1)
        return jnp.where(seen[:, None], box, 0.0).astype(jnp.float32), seen

    # One target at a time, so that no mask of every target is written.
    boxes, seen = jax.lax.map(box_of_target, jnp.arange(planes.shape[1]))
    return jnp.moveaxis(boxes, 0, 1), jnp.moveaxis(seen, 0, 1)


def box_ious(boxes: Boxes, others: Boxes) -> tuple[Float32[jax.Array, "*#B"], Float32[jax.Array, "*#B"]]:
    """Returns (IoU, generalized IoU) of boxes with other boxes, one by one."""
    corners = lambda b: (b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    (low, high), (other_low, other_high) = corners(boxes.astype(jnp.float32)), corners(others.astype(jnp.float32))
    area = lambda size: jnp.prod(jnp.maximum(size, 0), axis=-1)
    shared = area(jnp.minimum(high, other_high) - jnp.maximum(low, other_low))
    union = area(high - low) + area(other_high - other_low) - shared
    hull = area(jnp.maximum(high, other_high) - jnp.minimum(low, other_low))
    iou = shared / jnp.maximum(union, 1e-12)
    return iou, iou - (hull - union) / jnp.maximum(hull, 1e-12)


def box_losses(
    boxes: Float[DeviceArray, "*B N 4"], target_boxes: Float[DeviceArray, "*B N 4"]
) -> tuple[Float32[jax.Array, "*B N"], Float32[jax.Array, "*B N"]]:
    """Returns (the sum of the absolute differences of the four numbers, 1 - generalized IoU) of each box and its target."""
    distance = jnp.abs(boxes.astype(jnp.float32) - target_boxes).sum(-1)
    return distance, 1 - box_ious(boxes, target_boxes)[1]


def quality_loss(
    logits: Float[DeviceArray, "*B N"], boxes: Float[DeviceArray, "*B N 4"], target_boxes: Float[DeviceArray, "*B N 4"]
) -> Float32[jax.Array, "*B N"]:
    """Returns the binary cross-entropy of the predicted quality of each box with its IoU, through which no gradient flows."""
    iou = jax.lax.stop_gradient(box_ious(boxes, target_boxes)[0])
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * iou
