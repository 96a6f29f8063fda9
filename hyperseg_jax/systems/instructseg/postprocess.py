"""Converts the outputs of a prompt to InstructSeg's answers; defines its answer kinds and thresholds."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax

from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected

# Outputs of one prompt on one frame: mask_logits [Q, h, w], expression [Q]; and of the prompt: asked [] (it has an expression).
Outputs = Mapping[str, jax.Array]


def _select_expression(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    enabled = outputs["asked"]
    return selection.select_expression(
        outputs["mask_logits"], outputs["expression"], resize, enabled=enabled, soft=soft, balanced=True
    )


KINDS = {
    "expression": Answer(_select_expression, answers.predict_expression),
    "soft_expression": Answer(functools.partial(_select_expression, soft=True), answers.predict_expression),
}
# The release always predicts a mask; it has no class lists, which the other thresholds are for.
ANSWERS = Answers(KINDS, default=Thresholds(0.5, 0.5, 0.8), published=Thresholds(None, 0.8, 0.8))
