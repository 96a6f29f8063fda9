"""Converts the outputs of a prompt to HyperSeg's answers; defines its answer kinds and thresholds."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax

from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected
from hyperseg_jax.systems import class_lists

# Outputs of one prompt on one frame: mask_logits [Q, h, w], expression [Q], class [Q, C], region [Q, R], embedding [Q, D]; and
# of the prompt: asked [] (it uses an expression), class_valid [C], region_valid [R].
Outputs = Mapping[str, jax.Array]

CANDIDATES = 20
"""Maximum tracking candidates per frame."""


def _select_expression(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    enabled = outputs["asked"]
    return selection.select_expression(
        outputs["mask_logits"], outputs["expression"], resize, enabled=enabled, soft=soft, balanced=True
    )


def _select_regions(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    return selection.select_regions(outputs["mask_logits"], outputs["region"], resize, valid=outputs["region_valid"], soft=soft)


def _select_candidates(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    masks, logits, embeddings = (outputs[name] for name in ("mask_logits", "class", "embedding"))
    return selection.select_candidates(masks, logits, embeddings, resize, valid=outputs["class_valid"], limit=CANDIDATES)


KINDS = {
    "expression": Answer(_select_expression, answers.predict_expression),
    "soft_expression": Answer(functools.partial(_select_expression, soft=True), answers.predict_expression),
    "regions": Answer(_select_regions, answers.predict_regions),
    "soft_regions": Answer(functools.partial(_select_regions, soft=True), answers.predict_regions),
    "panoptic": Answer(class_lists.select_panoptic, answers.predict_panoptic),
    "instances": Answer(class_lists.select_instances, answers.predict_instances),
    "candidates": Answer(_select_candidates, answers.predict_candidates),
    "semantic": Answer(class_lists.select_semantic, answers.predict_semantic),
}
# The release always predicts a mask for an expression; the published thresholds of class lists are PSALM's.
ANSWERS = Answers(KINDS, default=Thresholds(0.5, 0.5, 0.8), published=Thresholds(None, 0.8, 0.8))
