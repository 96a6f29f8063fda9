"""From a system's outputs about one prompt on one frame to an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers
from hyperseg_jax.structs import Prompt

# of one prompt on one frame: mask_logits [Q, h, w], expression [Q], class [Q, C], region [Q, R], embedding [Q, D]
Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """absent_below: the probability of an expression under which the answer is "not there", None always answers. segment: what
    the class of a panoptic segment must exceed."""

    absent_below: float | None
    segment: float


OURS = Thresholds(0.5, 0.5)
PUBLISHED = Thresholds(None, 0.8)
"""HyperSeg's (expressions) and PSALM's (class lists)."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a prompt on one frame. masks: bool [n, H, W], or probabilities on the way to them; labels: their classes,
    scores: 0..1, where they have some. text: what was written. classes: float32 [n, C], how sure each mask is of each class,
    and embeddings: [n, D], what it looks like, of candidates to be followed. ious: of each object after each click."""

    masks: np.ndarray
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    text: str = ""
    classes: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    ious: tuple[tuple[float, ...], ...] = ()


def _classes(prompt: Prompt, outputs: Outputs) -> np.ndarray:
    """Logits [Q, C + 1] of the prompt's classes and of background; a batch may have room for more."""
    return outputs["class"][:, : len(prompt.classes) + 1]


def expression(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The one mask of an expression; empty where it is not there."""
    segments = answers.expression(
        outputs["mask_logits"], outputs["expression"], geometry, label=prompt.text, absent_below=thresholds.absent_below
    )
    return Found(segments[0].mask[None] if segments else np.zeros((1, *geometry.original), bool))


def soft_expression(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The one mask of an expression as probabilities."""
    segments = answers.expression(
        outputs["mask_logits"],
        outputs["expression"],
        geometry,
        label=prompt.text,
        absent_below=thresholds.absent_below,
        soft=True,
    )
    return Found(segments[0].mask[None] if segments else np.zeros((1, *geometry.original), np.float32))


def regions(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """A mask for each drawn region, in their order."""
    segments = answers.regions(outputs["mask_logits"], outputs["region"], geometry, labels=prompt.kinds)
    return Found(_stack([segment.mask for segment in segments], geometry))


def soft_regions(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """A mask for each drawn region, in their order, as probabilities."""
    segments = answers.regions(outputs["mask_logits"], outputs["region"], geometry, labels=prompt.kinds, soft=True)
    return Found(_stack([segment.mask for segment in segments], geometry))


def panoptic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """Segments without overlap."""
    ids, rows = answers.panoptic(
        outputs["mask_logits"],
        _classes(prompt, outputs),
        geometry,
        classes=prompt.classes,
        things=prompt.things,
        object_threshold=thresholds.segment,
    )
    return Found(_stack([ids == row["id"] for row in rows], geometry), tuple(row["category"] for row in rows))


def instances(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """Instances of things with scores, the best hundred pairs of mask and class."""
    segments = answers.instances(
        outputs["mask_logits"], _classes(prompt, outputs), geometry, classes=prompt.classes, things=prompt.things, limit=100
    )
    labels = tuple(prompt.classes.index(segment.label) for segment in segments)
    return Found(_stack([segment.mask for segment in segments], geometry), labels, tuple(segment.score for segment in segments))


CANDIDATES = 20
"""Of a frame, to be followed over a clip."""


def candidates(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The best queries of a frame, best first, each once, with what tells them apart from frame to frame."""
    sure = answers.class_probabilities(_classes(prompt, outputs))[:, :-1]
    best = np.argsort(-sure.max(-1), kind="stable")[:CANDIDATES]
    logits = answers.to_original(outputs["mask_logits"][best], geometry)
    classes = sure[best] * answers.mask_scores(logits)[:, None]
    order = np.argsort(-classes.max(-1), kind="stable")
    masks = logits > 0
    order = np.array([k for k in order if masks[k].any()], int)
    return Found(
        masks[order],
        scores=tuple(classes.max(-1)[order].tolist()),
        classes=classes[order],
        embeddings=outputs["embedding"][best][order],
    )


def semantic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The most probable class of each pixel, a mask a class."""
    best = answers.semantic(outputs["mask_logits"], _classes(prompt, outputs), geometry).argmax(0)
    there = tuple(int(label) for label in np.unique(best))
    return Found(np.stack([best == label for label in there]), there)


def _stack(masks: Sequence[np.ndarray], geometry: Geometry) -> np.ndarray:
    return np.stack(masks) if masks else np.zeros((0, *geometry.original), bool)
