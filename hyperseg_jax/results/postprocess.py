"""From a system's outputs about one prompt on one frame to a Prediction: one function for each way to ask and to answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers
from hyperseg_jax.structs import Prediction, Prompt

# of one prompt on one frame: mask_logits [Q, h, w], expression [Q], class [Q, C], region [Q, R], embedding [Q, D]
Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """absent_below: the probability of an expression under which the answer is "not there", None always answers. segment: what
    the class probability of a panoptic segment must exceed. overlap: the part of it that must stay visible."""

    absent_below: float | None
    segment: float
    overlap: float = 0.8


OURS = Thresholds(0.5, 0.5)
PUBLISHED = Thresholds(None, 0.8)
"""HyperSeg's (expressions) and PSALM's (class lists)."""


def _classes(prompt: Prompt, outputs: Outputs) -> np.ndarray:
    """Logits [Q, C + 1] of the prompt's classes and of background; a batch may have room for more."""
    return outputs["class"][:, : len(prompt.classes) + 1]


def expression(
    prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds, *, soft: bool = False
) -> Prediction:
    """The one mask of an expression, or none where the image does not show it. soft: probabilities."""
    return answers.expression(
        outputs["mask_logits"],
        outputs["expression"],
        geometry,
        label=prompt.text,
        absent_below=thresholds.absent_below,
        soft=soft,
    )


def soft_expression(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """The one mask of an expression as probabilities."""
    return expression(prompt, outputs, geometry, thresholds, soft=True)


def regions(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds, *, soft: bool = False) -> Prediction:
    """A mask for each drawn region, in their order. soft: probabilities."""
    return answers.regions(outputs["mask_logits"], outputs["region"], geometry, labels=prompt.kinds, soft=soft)


def soft_regions(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """A mask for each drawn region, in their order, as probabilities."""
    return regions(prompt, outputs, geometry, thresholds, soft=True)


def panoptic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Segments without overlap."""
    return answers.panoptic(
        outputs["mask_logits"],
        _classes(prompt, outputs),
        geometry,
        classes=prompt.classes,
        things=prompt.things,
        object_threshold=thresholds.segment,
        overlap_threshold=thresholds.overlap,
    )


def instances(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Instances of things with scores, the best hundred pairs of mask and class."""
    return answers.instances(
        outputs["mask_logits"], _classes(prompt, outputs), geometry, classes=prompt.classes, things=prompt.things, limit=100
    )


CANDIDATES = 20
"""Of a frame, to be tracked over a video."""


def candidates(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """The best queries of a frame, best first, each once, with class probabilities and embeddings for tracking."""
    probability = answers.class_probabilities(_classes(prompt, outputs))[:, :-1]
    best = np.argsort(-probability.max(-1), kind="stable")[:CANDIDATES]
    logits = answers.to_original(outputs["mask_logits"][best], geometry)
    classes = probability[best] * answers.mask_scores(logits)[:, None]
    order = np.argsort(-classes.max(-1), kind="stable")
    masks = logits > 0
    order = np.array([k for k in order if masks[k].any()], int)
    return Prediction(
        masks[order],
        scores=tuple(classes.max(-1)[order].tolist()),
        classes=classes[order],
        embeddings=outputs["embedding"][best][order],
    )


def semantic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """The most probable class of each pixel, one mask for each class that has a pixel."""
    best = answers.semantic(outputs["mask_logits"], _classes(prompt, outputs), geometry).argmax(0)
    labels = tuple(int(label) for label in np.unique(best))
    return Prediction(np.stack([best == label for label in labels]), labels, names=tuple(prompt.classes[k] for k in labels))
