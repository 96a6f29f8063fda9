"""Converts the outputs of a prompt to IFSeg's answers: the best class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected

Outputs = Mapping[str, jax.Array]
"""Of one prompt: mask_logits [C, h, w], the logits or probabilities of each class; averaged [], whether they are probabilities;
class_valid [C]."""


def _select_semantic(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    return selection.select_best_mask(outputs["mask_logits"], resize, valid=outputs["class_valid"])


def _select_soft_semantic(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    valid, averaged = outputs["class_valid"], outputs["averaged"]
    return selection.select_best_mask(outputs["mask_logits"], resize, valid=valid, are_probabilities=averaged)


KINDS = {
    "semantic": Answer(_select_semantic, answers.predict_semantic, "cells"),
    "soft_semantic": Answer(_select_soft_semantic, answers.predict_semantic, "cells"),
}
# There are no thresholds: each pixel has the best class.
NONE = Thresholds(None, 0.0, 0.0)
ANSWERS = Answers(KINDS, default=NONE, published=NONE)
