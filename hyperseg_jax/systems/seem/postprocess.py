"""Converts the outputs of a prompt to SEEM's answers; defines its answer kinds and thresholds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

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
region [R] of the mask of each region, with region_valid [R]; the last two may have classes as well."""


def _select_expression(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    masks, scores = outputs["mask_logits"], outputs["expression"]
    return selection.select_expression(masks, scores, resize, enabled=True, soft=soft) | _best_classes(outputs)


def _select_regions(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    chosen = selection.select_own_masks(
        outputs["mask_logits"], outputs["region"], resize, valid=outputs["region_valid"], soft=soft
    )
    return chosen | _best_classes(outputs)


def _best_classes(outputs: Outputs) -> Selected:
    """Returns the most probable class of each mask, which is not the background; {} without a class list."""
    if "class" not in outputs:
        return {}
    known = jnp.arange(outputs["class"].shape[1]) < outputs["class_valid"].sum() - 1
    return {"label": jnp.argmax(jnp.where(known, outputs["class"], -jnp.inf), axis=1)}


def _named(predict: Callable[[Arrays, Prompt, Geometry, Thresholds], Prediction]) -> Callable[..., Prediction]:
    """Wraps the conversion to a Prediction: if the prompt has a class list, each mask is named by its class."""

    def predict_with_names(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
        predicted = predict(selected, prompt, geometry, thresholds)
        if not prompt.classes:
            return predicted
        labels = tuple(selected["label"][: len(predicted)].tolist())
        return dataclasses.replace(predicted, labels=labels, names=tuple(prompt.classes[label] for label in labels))

    return predict_with_names


KINDS = {
    "expression": Answer(_select_expression, _named(answers.predict_expression), "bicubic"),
    "soft_expression": Answer(functools.partial(_select_expression, soft=True), _named(answers.predict_expression), "bicubic"),
    "regions": Answer(_select_regions, _named(answers.predict_regions)),
    "soft_regions": Answer(functools.partial(_select_regions, soft=True), _named(answers.predict_regions)),
    "panoptic": Answer(class_lists.select_panoptic, answers.predict_panoptic, "bicubic"),
    "instances": Answer(class_lists.select_instances, answers.predict_instances, "bicubic"),
    "semantic": Answer(class_lists.select_semantic, answers.predict_semantic, "bicubic"),
}
# The authors' demo accepts segments from 0.4; their scores are measured with 0.8. A phrase always has a mask.
ANSWERS = Answers(KINDS, default=Thresholds(None, 0.4, 0.8), published=Thresholds(None, 0.8, 0.8))
