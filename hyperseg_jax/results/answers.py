"""Logits -> predictions, on the host. Rules: the release for expressions, its parent (PSALM) for classes and regions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Prediction


@functools.lru_cache(maxsize=64)
def _interpolation(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: torch's bilinear resize of one axis (align_corners False, no antialias)."""
    scale = np.float32(source) / np.float32(target)  # float32 as in torch, which rounds the scale first
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(position.astype(int), source - 1)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - (position - low))
    np.add.at(matrix, (rows, high), position - low)
    return matrix


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize. [..., h, w] -> [..., height, width]."""
    rows, columns = _interpolation(maps.shape[-2], height), _interpolation(maps.shape[-1], width)
    return rows @ maps.astype(np.float32) @ columns.T


def to_original(mask_logits: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Logits [..., h, w] of the padded square -> [..., H, W] of the picture: resize, crop the padding, resize."""
    padded = resize(mask_logits, *geometry.padded)
    return resize(padded[..., : geometry.filled[0], : geometry.filled[1]], *geometry.original)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function, without overflow."""
    return 0.5 * (np.tanh(0.5 * np.asarray(x, np.float32)) + 1)


def mask_scores(logits: np.ndarray) -> np.ndarray:
    """How sure a mask is of its own pixels: mean probability over positive pixels. [Q, H, W] -> [Q]."""
    positive = logits > 0
    return (sigmoid(logits) * positive).sum((-2, -1)) / (positive.sum((-2, -1)) + 1e-6)


def query_scores(text_logits: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """How well each query answers: sigmoid(text logit) * mask score. text_logits [Q] or [Q, R], logits [Q, H, W]."""
    scores = mask_scores(logits)
    return sigmoid(text_logits) * scores.reshape(-1, *[1] * (text_logits.ndim - 1))


def expression(
    mask_logits: np.ndarray,
    expression_logits: np.ndarray,
    geometry: Geometry,
    *,
    label: str,
    absent_below: float | None = None,
    soft: bool = False,
) -> Prediction:
    """The one query that fits the expression best; none where it more likely names nothing.

    mask_logits [Q, h, w], expression_logits [Q]. score: query_scores (the release). absent_below is ours: the least
    probability that some query matches, their sum, since at most one does. Training weighs the one match as much as the
    Q - 1 misses, which makes the logits log(Q - 1) too large; that is taken off first. None keeps the release's rule, which
    always answers, if need be with an empty mask. soft: probabilities in place of a binary mask.
    """
    logits = to_original(mask_logits, geometry)
    scores = query_scores(expression_logits, logits)
    best = int(np.argmax(scores))
    present = sigmoid(expression_logits - np.log(max(len(expression_logits) - 1, 1))).sum()
    if absent_below is not None and (present < absent_below or not (logits[best] > 0).any()):
        return Prediction(np.zeros((0, *geometry.original), np.float32 if soft else bool))
    mask = sigmoid(logits[best]) if soft else logits[best] > 0
    return Prediction(mask[None], scores=(float(scores[best]),), names=(label,))


def regions(
    mask_logits: np.ndarray, region_logits: np.ndarray, geometry: Geometry, *, labels: tuple[str, ...], soft: bool = False
) -> Prediction:
    """For each region the query that fits it best. mask_logits [Q, h, w], region_logits [Q, R], R at least the
    number of labels. soft: probabilities in place of binary masks."""
    logits = to_original(mask_logits, geometry)
    scores = query_scores(region_logits[:, : len(labels)], logits)
    best = scores.argmax(0)
    masks = sigmoid(logits[best]) if soft else logits[best] > 0
    return Prediction(masks, scores=tuple(scores.max(0).tolist()), names=labels)


def class_probabilities(class_logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes. [Q, C] -> [Q, C]."""
    powers = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def semantic(mask_logits: np.ndarray, class_logits: np.ndarray, geometry: Geometry) -> np.ndarray:
    """How much of each class is at each pixel: sum over queries of class probability * mask probability.

    mask_logits [Q, h, w], class_logits [Q, C + 1], background last and left out. Returns float32 [C, H, W], not normalised;
    the class of a pixel is its argmax. Rule of Mask2Former's semantic_inference.
    """
    masks = sigmoid(to_original(mask_logits, geometry))
    return np.einsum("qc,qhw->chw", class_probabilities(class_logits)[:, :-1], masks)


def best_pairs(
    class_logits: np.ndarray, *, things: Sequence[bool] | None = None, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most probable pairs of a query and a class, best first: int [n] queries, int [n] classes, float32 [n].

    class_logits [Q, C + 1], background last and left out. limit: how many pairs count, by default Q. things: for each class
    whether its instances are counted apart; pairs of the others are dropped, after the limit as in the reference.
    """
    probability = class_probabilities(class_logits)[:, :-1]
    count = len(probability) if limit is None else limit
    order = np.argsort(-probability, axis=None, kind="stable")[:count]
    query, category = np.unravel_index(order, probability.shape)
    kept = np.ones(len(order), bool) if things is None else np.asarray(things, bool)[category]
    return query[kept], category[kept], probability.reshape(-1)[order][kept]


def instances(
    mask_logits: np.ndarray,
    class_logits: np.ndarray,
    geometry: Geometry,
    *,
    classes: Sequence[str],
    things: Sequence[bool] | None = None,
    limit: int | None = None,
) -> Prediction:
    """best_pairs as masks, which may overlap; score = class probability * mask score.

    mask_logits [Q, h, w], class_logits [Q, C + 1], background last. Rule of Mask2Former's instance_inference.
    """
    logits = to_original(mask_logits, geometry)
    query, category, probability = best_pairs(class_logits, things=things, limit=limit)
    scores = probability * mask_scores(logits)[query]
    labels = tuple(category.tolist())
    return Prediction(logits[query] > 0, labels, tuple(scores.tolist()), tuple(classes[label] for label in labels))


def panoptic(
    mask_logits: np.ndarray,
    class_logits: np.ndarray,
    geometry: Geometry,
    *,
    classes: Sequence[str],
    things: Sequence[bool],
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> Prediction:
    """Masks without overlap. mask_logits [Q, h, w], class_logits [Q, C + 1], background last.

    Parts of one stuff class are merged. Rule of Mask2Former's panoptic_inference.
    """
    probability = class_probabilities(class_logits)
    score, label = probability.max(-1), probability.argmax(-1)
    kept = np.flatnonzero((label != len(classes)) & (score > object_threshold))
    if not len(kept):
        return Prediction(np.zeros((0, *geometry.original), bool))
    probabilities = sigmoid(to_original(mask_logits[kept], geometry))
    owner = (score[kept, None, None] * probabilities).argmax(0)
    masks: list[np.ndarray] = []
    found: list[int] = []  # the query of each mask
    stuff: dict[int, int] = {}
    for k, query in enumerate(kept):
        category, whole = int(label[query]), probabilities[k] >= 0.5
        mine = (owner == k) & whole
        if not mine.any() or (owner == k).sum() / max(whole.sum(), 1) < overlap_threshold:
            continue
        if not things[category] and category in stuff:
            masks[stuff[category]] |= mine
            continue
        if not things[category]:
            stuff[category] = len(masks)
        masks.append(mine)
        found.append(int(query))
    labels = tuple(label[found].tolist())
    scores = tuple(score[found].tolist())
    stacked = np.stack(masks) if masks else np.zeros((0, *geometry.original), bool)
    return Prediction(stacked, labels, scores, tuple(classes[one] for one in labels))
