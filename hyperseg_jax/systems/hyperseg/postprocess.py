"""Converts the outputs of a prompt to HyperSeg's answers; defines its answer kinds and thresholds."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax

from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected

# Outputs of one prompt on one frame: mask_logits [Q, h, w], expression [Q], class [Q, C], region [Q, R], embedding [Q, D]; and
# of the prompt: asked [] (it uses an expression), class_valid [C], region_valid [R].
Outputs = Mapping[str, jax.Array]

INSTANCES, CANDIDATES = 100, 20
"""Maximum instances per image, as in Mask2Former, and maximum tracking candidates per frame."""


def _expression(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    enabled = outputs["asked"]
    return selection.expression(
        outputs["mask_logits"], outputs["expression"], resize, enabled=enabled, soft=soft, balanced=True
    )


def _regions(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    return selection.regions(outputs["mask_logits"], outputs["region"], resize, valid=outputs["region_valid"], soft=soft)


def _panoptic(outputs: Outputs, resize: MaskResize, thresholds: jax.Array) -> Selected:
    segment, overlap = thresholds
    return selection.panoptic(
        outputs["mask_logits"],
        outputs["class"],
        resize,
        valid=outputs["class_valid"],
        object_threshold=segment,
        overlap_threshold=overlap,
    )


def _instances(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    valid = outputs["class_valid"]
    return selection.instances(outputs["mask_logits"], outputs["class"], resize, valid=valid, limit=INSTANCES)


def _candidates(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    masks, logits, embeddings = (outputs[name] for name in ("mask_logits", "class", "embedding"))
    return selection.candidates(masks, logits, embeddings, resize, valid=outputs["class_valid"], limit=CANDIDATES)


def _semantic(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    return selection.semantic(outputs["mask_logits"], outputs["class"], resize, valid=outputs["class_valid"])


KINDS = {
    "expression": Answer(_expression, answers.expression),
    "soft_expression": Answer(functools.partial(_expression, soft=True), answers.expression),
    "regions": Answer(_regions, answers.regions),
    "soft_regions": Answer(functools.partial(_regions, soft=True), answers.regions),
    "panoptic": Answer(_panoptic, answers.panoptic),
    "instances": Answer(_instances, answers.instances),
    "candidates": Answer(_candidates, answers.candidates),
    "semantic": Answer(_semantic, answers.semantic),
}
# The release always predicts a mask for an expression; the published thresholds of class lists are PSALM's.
ANSWERS = Answers(KINDS, default=Thresholds(0.5, 0.5, 0.8), published=Thresholds(None, 0.8, 0.8))
