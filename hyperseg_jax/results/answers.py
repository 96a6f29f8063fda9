"""What was selected on the device -> Predictions, on the host; and what it takes to answer in one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results.mask_resize import MaskResize
from hyperseg_jax.results.selection import Selected
from hyperseg_jax.structs import Prediction, Prompt

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """no_target_threshold: below this probability of the expression, the prediction is empty; None always predicts a mask.
    segment: the class probability that a panoptic segment must exceed. overlap: the share of it that must stay visible."""

    no_target_threshold: float | None
    segment: float
    overlap: float

    def of_segments(self) -> np.ndarray:
        """What the device needs of them: float32 [2], segment and overlap."""
        return np.array([self.segment, self.overlap], np.float32)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One way to answer a prompt.

    select(outputs about one prompt on one frame, resize, thresholds.of_segments()) -> arrays, on the device.
    predict(those arrays, prompt, geometry, thresholds) -> Prediction, on the host.
    """

    select: Callable[[Mapping[str, jax.Array], MaskResize, jax.Array], Selected]
    predict: Callable[[Arrays, Prompt, Geometry, Thresholds], Prediction]


@dataclasses.dataclass(frozen=True)
class Answers:
    """How a system answers. kinds: by name ("expression", "soft_expression", "regions", "soft_regions", "panoptic",
    "instances", "semantic", "candidates"), those that it gives. usual: the thresholds of predictions and validation;
    published: those of its authors' scores."""

    kinds: Mapping[str, Answer]
    usual: Thresholds
    published: Thresholds

    def find(self, kind: str) -> Answer:
        """UserError where the system does not answer in this way."""
        if kind not in self.kinds:
            raise UserError(f"this system gives no answer of the kind {kind!r}; it gives {', '.join(self.kinds) or 'none'}")
        return self.kinds[kind]


def unpacked(packed: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Packed masks of a canvas [..., H, W / 8] -> bool [..., height, width] of the image."""
    height, width = geometry.original
    return np.unpackbits(packed[..., :height, :], axis=-1, count=width).astype(bool)


def _masks(shown: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Packed masks, or probabilities of a canvas, at the image's size."""
    height, width = geometry.original
    return unpacked(shown, geometry) if shown.dtype == np.uint8 else shown[..., :height, :width]


def expression(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """The one mask of an expression, or none where the image does not show it."""
    least = thresholds.no_target_threshold
    if least is not None and (found["present"] < least or not found["any"]):
        kind = bool if found["mask"].dtype == np.uint8 else np.float32
        return Prediction(np.zeros((0, *geometry.original), kind))
    return Prediction(_masks(found["mask"], geometry)[None], scores=(float(found["score"]),), names=(prompt.text,))


def regions(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """A mask for each drawn region, in their order."""
    names = tuple(region.kind for region in prompt.regions)
    count = len(names)
    return Prediction(_masks(found["mask"][:count], geometry), scores=tuple(found["score"][:count].tolist()), names=names)


def panoptic(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Segments without overlap. Parts of one stuff class are one segment."""
    height, width = geometry.original
    owner = found["owner"][:height, :width]
    masks: list[np.ndarray] = []
    kept: list[int] = []  # the query of each mask
    stuff: dict[int, int] = {}
    for query in np.flatnonzero(found["found"]).tolist():
        mine, label = owner == query + 1, int(found["label"][query])
        if label in stuff:
            masks[stuff[label]] |= mine
            continue
        if not prompt.things[label]:
            stuff[label] = len(masks)
        masks.append(mine)
        kept.append(query)
    labels = tuple(found["label"][kept].tolist())
    stacked = np.stack(masks) if masks else np.zeros((0, *geometry.original), bool)
    return Prediction(stacked, labels, tuple(found["score"][kept].tolist()), _names(prompt, labels))


def instances(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Instances of things with scores, which may overlap."""
    things = np.asarray(prompt.things, bool)
    kept = found["there"] & things[np.minimum(found["label"], len(things) - 1)]
    labels = tuple(found["label"][kept].tolist())
    masks = unpacked(found["mask"][found["query"][kept]], geometry)
    return Prediction(masks, labels, tuple(found["score"][kept].tolist()), _names(prompt, labels))


def candidates(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """The best queries of a frame, best first, with class probabilities and embeddings for tracking."""
    classes = found["classes"][:, : len(prompt.classes)]
    order = np.argsort(-classes.max(-1), kind="stable")
    order = order[found["any"][order]]
    return Prediction(
        unpacked(found["mask"][order], geometry),
        scores=tuple(classes.max(-1)[order].tolist()),
        classes=classes[order],
        embeddings=found["embedding"][order],
    )


def semantic(found: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """One mask for each class that is the most probable one of a pixel."""
    height, width = geometry.original
    best = found["label"][:height, :width]
    labels = tuple(int(label) for label in np.unique(best))
    return Prediction(np.stack([best == label for label in labels]), labels, names=_names(prompt, labels))


def _names(prompt: Prompt, labels: Sequence[int]) -> tuple[str, ...]:
    return tuple(prompt.classes[label] for label in labels)
