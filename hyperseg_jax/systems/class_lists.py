"""Selects the answers to class lists from the outputs of one prompt on one frame: mask_logits [Q, h, w], class [Q, C] and
class_valid [C], of which the last valid class is the background."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from hyperseg_jax.results import selection
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected

Outputs = Mapping[str, jax.Array]
INSTANCES = 100
"""Maximum instances per image, as in Mask2Former."""


def select_panoptic(outputs: Outputs, resize: MaskResize, thresholds: jax.Array) -> Selected:
    """Selects segments without overlap."""
    segment, overlap = thresholds
    return selection.select_panoptic(
        outputs["mask_logits"],
        outputs["class"],
        resize,
        valid=outputs["class_valid"],
        object_threshold=segment,
        overlap_threshold=overlap,
    )


def select_instances(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    """Selects the best instances."""
    valid = outputs["class_valid"]
    return selection.select_instances(outputs["mask_logits"], outputs["class"], resize, valid=valid, limit=INSTANCES)


def select_semantic(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    """Selects the best class of each pixel."""
    return selection.select_semantic(outputs["mask_logits"], outputs["class"], resize, valid=outputs["class_valid"])
