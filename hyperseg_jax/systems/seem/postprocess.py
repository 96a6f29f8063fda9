"""Converts the outputs of a prompt to SEEM's answers; defines its answer kinds and thresholds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Arrays, Thresholds
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected
from hyperseg_jax.structs import Prediction, Prompt
from hyperseg_jax.systems import class_lists

Outputs = Mapping[str, jax.Array]
"""Of one prompt: mask_logits [Q, h, w], and class [Q, C] with class_valid [C], or expression [1] of the one best query, or
region [R] of the mask of each region, with region_valid [R]."""


def _select_expression(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    return selection.select_expression(outputs["mask_logits"], outputs["expression"], resize, enabled=True, soft=soft)


def _select_regions(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    chosen = selection.select_own_masks(
        outputs["mask_logits"], outputs["region"], resize, valid=outputs["region_valid"], soft=soft
    )
    if "class" in outputs:  # without the background
        known = jnp.arange(outputs["class"].shape[1]) < outputs["class_valid"].sum() - 1
        chosen |= {"label": jnp.argmax(jnp.where(known, outputs["class"], -jnp.inf), axis=1)}
    return chosen


def _predict_regions(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns one mask for each region, named by its class if the prompt has a class list."""
    predicted = answers.predict_regions(selected, prompt, geometry, thresholds)
    if not prompt.classes:
        return predicted
    labels = tuple(selected["label"][: len(prompt.regions)].tolist())
    return dataclasses.replace(predicted, labels=labels, names=tuple(prompt.classes[label] for label in labels))


KINDS = {
    "expression": Answer(_select_expression, answers.predict_expression, "bicubic"),
    "soft_expression": Answer(functools.partial(_select_expression, soft=True), answers.predict_expression, "bicubic"),
    "regions": Answer(_select_regions, _predict_regions),
    "soft_regions": Answer(functools.partial(_select_regions, soft=True), _predict_regions),
    "panoptic": Answer(class_lists.select_panoptic, answers.predict_panoptic, "bicubic"),
    "instances": Answer(class_lists.select_instances, answers.predict_instances, "bicubic"),
    "semantic": Answer(class_lists.select_semantic, answers.predict_semantic, "bicubic"),
}
# The authors' demo accepts segments from 0.4; their scores are measured with 0.8. A phrase always has a mask.
ANSWERS = Answers(KINDS, default=Thresholds(None, 0.4, 0.8), published=Thresholds(None, 0.8, 0.8))
