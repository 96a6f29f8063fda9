"""Logits -> answers, on the host. Rules: the release for expressions, its parent project (PSALM) for classes and regions."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from hyperseg_jax.data.transforms import Geometry


@dataclasses.dataclass(frozen=True)
class Segment:
    """One found thing. mask: bool [H, W] at the picture's own size. score: 0..1. label: what it was found as."""

    mask: np.ndarray
    score: float
    label: str


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


def expression(
    mask_logits: np.ndarray, expression_logits: np.ndarray, geometry: Geometry, *, label: str, absent_below: float | None = None
) -> list[Segment]:
    """The one query that fits the expression best; none where it more likely names nothing.

    mask_logits [Q, h, w], expression_logits [Q]. score = sigmoid(expression) * mask score (the release). absent_below is
    ours: the least probability that some query matches, their sum, since at most one does. Training weighs the one match as
    much as the Q - 1 misses, which makes the logits log(Q - 1) too large; that is taken off first. None keeps the release's
    rule, which always answers, if need be with an empty mask.
    """
    logits = to_original(mask_logits, geometry)
    scores = sigmoid(expression_logits) * mask_scores(logits)
    best = int(np.argmax(scores))
    present = sigmoid(expression_logits - np.log(max(len(expression_logits) - 1, 1))).sum()
    mask = logits[best] > 0
    if absent_below is not None and (present < absent_below or not mask.any()):
        return []
    return [Segment(mask, float(scores[best]), label)]


def regions(
    mask_logits: np.ndarray, region_logits: np.ndarray, geometry: Geometry, *, labels: tuple[str, ...]
) -> list[Segment]:
    """For each region the query that fits it best. mask_logits [Q, h, w], region_logits [Q, R]."""
    logits = to_original(mask_logits, geometry)
    scores = sigmoid(region_logits) * mask_scores(logits)[:, None]
    best = scores.argmax(0)
    return [Segment(logits[q] > 0, float(scores[q, r]), label)
            for r, (q, label) in enumerate(zip(best, labels, strict=False))]  # fmt: skip


def panoptic(
    mask_logits: np.ndarray,
    class_logits: np.ndarray,
    geometry: Geometry,
    *,
    classes: tuple[str, ...],
    things: tuple[bool, ...],
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[np.ndarray, list[dict]]:
    """Non-overlapping segments. mask_logits [Q, h, w], class_logits [Q, C + 1], background last.

    Returns ids int32 [H, W] (0 = nothing) and rows {"id", "label", "category", "isthing", "score"}, ids from 1. Parts of one
    stuff class are merged. Rule of Mask2Former's panoptic_inference.
    """
    logits = to_original(mask_logits, geometry)
    shifted = class_logits - class_logits.max(-1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    score, label = probability.max(-1), probability.argmax(-1)
    ids = np.zeros(geometry.original, np.int32)
    kept = np.flatnonzero((label != len(classes)) & (score > object_threshold))
    if not len(kept):
        return ids, []
    masks = sigmoid(logits[kept])
    owner = (score[kept, None, None] * masks).argmax(0)
    rows: list[dict] = []
    stuff: dict[int, int] = {}
    for k, query in enumerate(kept):
        category, whole = int(label[query]), masks[k] >= 0.5
        mine = (owner == k) & whole
        if not mine.any() or (owner == k).sum() / max(whole.sum(), 1) < overlap_threshold:
            continue
        if not things[category] and category in stuff:
            ids[mine] = stuff[category]
            continue
        rows.append({"id": len(rows) + 1, "label": classes[category], "category": category, "isthing": things[category],
                     "score": float(score[query])})  # fmt: skip
        ids[mine] = len(rows)
        if not things[category]:
            stuff[category] = len(rows)
    return ids, rows
