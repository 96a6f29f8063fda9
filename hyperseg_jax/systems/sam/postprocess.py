"""Converts the outputs of a prompt to SAM's answers; defines its answer kinds."""

from __future__ import annotations

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

Outputs = Mapping[str, jax.Array]
"""Of one prompt: mask_logits [R, M, h, w], iou and order [R, M]."""


def _select_regions(outputs: Outputs, resize: MaskResize, _: jax.Array, *, soft: bool = False) -> Selected:
    best = jnp.argmax(outputs["order"], axis=-1)
    take = lambda values: jax.vmap(lambda of_region, index: of_region[index])(values, best)
    masks = selection.resize_each(take(outputs["mask_logits"]), resize, soft=soft)
    return {"mask": masks, "score": take(outputs["iou"])}


def _select_alternatives(outputs: Outputs, resize: MaskResize, _: jax.Array) -> Selected:
    """Selects the candidates of the first region for an unclear prompt."""
    masks = selection.resize_each(outputs["mask_logits"][0, 1:], resize, soft=False)
    return {"mask": masks, "score": outputs["iou"][0, 1:]}


def _predict_alternatives(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns the candidates, best first."""
    order = (-selected["score"]).argsort(kind="stable")
    masks = answers.unpack_masks(selected["mask"][order], geometry)
    return Prediction(masks, scores=tuple(selected["score"][order].tolist()))


KINDS = {
    "regions": Answer(_select_regions, answers.predict_regions),
    "soft_regions": Answer(functools.partial(_select_regions, soft=True), answers.predict_regions),
    "alternatives": Answer(_select_alternatives, _predict_alternatives),
}
ANSWERS = Answers(KINDS, default=Thresholds(None, 0.5, 0.5), published=Thresholds(None, 0.5, 0.5))
