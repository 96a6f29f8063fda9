"""Converts the queries selected on the device to Predictions on the host; defines the kinds of answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results.mask_resize import Filter, MaskResize
from hyperseg_jax.results.selection import Selected
from hyperseg_jax.structs import Prediction, Prompt
from hyperseg_jax.untrusted import limits

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of predictions.

    no_target_threshold: the prediction is empty when the probability of the expression is below it; None always predicts a
    mask. segment: class probability that a panoptic segment must exceed. overlap: minimum visible share of a segment.
    """

    no_target_threshold: float | None
    segment: float
    overlap: float

    def segment_thresholds(self) -> np.ndarray:
        """Returns the thresholds used on the device: float32 [2], segment and overlap."""
        return np.array([self.segment, self.overlap], np.float32)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One kind of answer to a prompt.

    select(outputs of one prompt on one frame, resize, thresholds.segment_thresholds()) -> arrays, on the device.
    predict(these arrays, prompt, geometry, thresholds) -> Prediction, on the host.
    last_filter: the filter by which masks are resized to the image (mask_resize.make_mask_resize).
    """

    select: Callable[[Mapping[str, jax.Array], MaskResize, jax.Array], Selected]
    predict: Callable[[Arrays, Prompt, Geometry, Thresholds], Prediction]
    last_filter: Filter = "bilinear"


@dataclasses.dataclass(frozen=True)
class Answers:
    """The kinds of answers that a system supports, and its thresholds.

    kinds: supported kinds by name ("expression", "soft_expression", "regions", "soft_regions", "panoptic", "instances",
    "semantic", "soft_semantic", "candidates"). default: thresholds for prediction and validation. published: thresholds of the
    authors' scores.
    """

    kinds: Mapping[str, Answer]
    default: Thresholds
    published: Thresholds

    def find(self, kind: str) -> Answer:
        """Returns the Answer of a kind. Raises UserError if the system does not support it."""
        if kind not in self.kinds:
            raise UserError(
                f"the system does not support answers of kind {kind!r}; supported: {', '.join(self.kinds) or 'none'}"
            )
        return self.kinds[kind]


def unpack_masks(packed: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Unpacks masks of a canvas [..., H, W / 8] to bool [..., height, width] of the image."""
    height, width = geometry.original
    return np.unpackbits(packed[..., :height, :], axis=-1, count=width).astype(bool)


def _crop_masks(masks: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Crops the packed masks or mask probabilities of a canvas to the image, and unpacks packed ones."""
    height, width = geometry.original
    return unpack_masks(masks, geometry) if masks.dtype == np.uint8 else masks[..., :height, :width]


def predict_expression(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns the one mask of an expression; none if the expression is predicted to be absent."""
    threshold = thresholds.no_target_threshold
    if threshold is not None and (selected["present"] < threshold or not selected["any"]):
        dtype = bool if selected["mask"].dtype == np.uint8 else np.float32
        return Prediction(np.zeros((0, *geometry.original), dtype))
    return Prediction(_crop_masks(selected["mask"], geometry)[None], scores=(float(selected["score"]),), names=(prompt.text,))


def predict_regions(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns one mask for each drawn region, in their order."""
    names = tuple(region.kind for region in prompt.regions)
    count = len(names)
    return Prediction(
        _crop_masks(selected["mask"][:count], geometry), scores=tuple(selected["score"][:count].tolist()), names=names
    )


def predict_panoptic(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns segments without overlap. All parts of a stuff class form one segment."""
    height, width = geometry.original
    segment_map = selected["owner"][:height, :width]
    masks: list[np.ndarray] = []
    queries: list[int] = []  # the query of each mask
    stuff: dict[int, int] = {}
    for query in np.flatnonzero(selected["found"]).tolist():
        segment, label = segment_map == query + 1, int(selected["label"][query])
        if label in stuff:
            masks[stuff[label]] |= segment
            continue
        if not prompt.things[label]:
            stuff[label] = len(masks)
        masks.append(segment)
        queries.append(query)
    labels = tuple(selected["label"][queries].tolist())
    stacked = np.stack(masks) if masks else np.zeros((0, *geometry.original), bool)
    return Prediction(stacked, labels, tuple(selected["score"][queries].tolist()), _class_names(prompt, labels))


def predict_instances(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns instances of thing classes with scores; instances may overlap."""
    things = np.asarray(prompt.things, bool)
    is_thing = selected["valid"] & things[np.minimum(selected["label"], len(things) - 1)]
    labels = tuple(selected["label"][is_thing].tolist())
    masks = unpack_masks(selected["mask"][selected["query"][is_thing]], geometry)
    return Prediction(masks, labels, tuple(selected["score"][is_thing].tolist()), _class_names(prompt, labels))


def predict_candidates(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns the best queries of a frame, best first, with class probabilities and embeddings for tracking."""
    classes = selected["classes"][:, : len(prompt.classes)]
    order = np.argsort(-classes.max(-1), kind="stable")
    order = order[selected["any"][order]]
    return Prediction(
        unpack_masks(selected["mask"][order], geometry),
        scores=tuple(classes.max(-1)[order].tolist()),
        classes=classes[order],
        embeddings=selected["embedding"][order],
    )


def predict_semantic(selected: Arrays, prompt: Prompt, geometry: Geometry, thresholds: Thresholds) -> Prediction:
    """Returns one mask for each class that is the most probable class of some pixel. Raises UserError if the masks exceed
    limits.mask_pixels."""
    height, width = geometry.original
    best = selected["label"][:height, :width]
    labels = tuple(int(label) for label in np.unique(best))
    limits.check_limit("mask_pixels", len(labels) * best.size, f"the answer of {len(labels)} masks", "pixels")
    return Prediction(np.stack([best == label for label in labels]), labels, names=_class_names(prompt, labels))


def _class_names(prompt: Prompt, labels: Sequence[int]) -> tuple[str, ...]:
    """Returns the name of the class of each label."""
    return tuple(prompt.classes[label] for label in labels)
