"""What results/ makes of a case's mask logits and scores, by the names of the outputs."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers


def geometry_of(inputs: dict[str, np.ndarray]) -> Geometry:
    """How the case's picture lies in its padded input."""
    valid = inputs["padding_mask"] == 0
    filled = (int(valid.any(1).sum()), int(valid.any(0).sum()))
    return Geometry(tuple(inputs["out_hw"].tolist()), filled, valid.shape)


BESIDE_ZERO = np.float32(2e-7)  # the smallest logit whose probability is on its side of one half in float32


def settled(logits: np.ndarray, positive: np.ndarray, legal: float) -> tuple[np.ndarray, int]:
    """The logits with the signs of `positive` wherever they differ and lie within `legal` of zero, and how many those are."""
    flipped = ((logits > 0) != positive) & (np.abs(logits) <= legal)
    return np.where(flipped, np.where(positive, BESIDE_ZERO, -BESIDE_ZERO), logits), int(flipped.sum())


def answered(
    masks: np.ndarray,
    scores: dict[str, np.ndarray],
    geometry: Geometry,
    things: list[int] | None,
    positive: np.ndarray | None = None,
    legal: float = 0.0,
) -> tuple[dict[str, np.ndarray], int]:
    """(answers by the names of the outputs, number of legally flipped pixels).

    masks [Q, h, w]; scores by kind: "expression" [Q], "class" [Q, C + 1], "region" [Q, R]. things: of each class.
    positive: bool [Q, H, W], the case's own masks. A score is a mean over the pixels of its mask, so that one pixel beside zero
    moves it by more than its floor. Where our sign differs within `legal` of zero, the pixel is taken as in the case.
    """
    logits, flipped = answers.to_original(masks, geometry), 0
    made = {"post_mask_logits": logits}
    if positive is not None:
        logits, flipped = settled(logits, positive, legal)
    if flipped:  # the answers are asked again, from masks that need no resizing
        masks, size = logits, logits.shape[-2:]
        geometry = Geometry(size, size, size)
    if "expression" in scores:
        made["scores_by_query"] = answers.query_scores(scores["expression"], logits)
        made["best_query"] = made["scores_by_query"].argmax(keepdims=True)
        (soft,) = answers.expression(masks, scores["expression"], geometry, label="", soft=True)
        made["best_soft_mask"] = soft.mask
    if "region" in scores:
        made["completed_region_scores"] = answers.query_scores(scores["region"], logits)
    if "class" in scores and things is not None:
        made["completed_sem_seg"] = answers.semantic(masks, scores["class"], geometry)
        made |= instances(masks, scores["class"], geometry, things, "completed_instance", things)
        made |= instances(masks, scores["class"], geometry, things, "completed_instance_all", None)
        for kind, threshold in (("ref", 0.8), ("low", 0.3)):
            made |= panoptic(masks, scores["class"], geometry, things, f"completed_panoptic_{kind}", threshold)
    return made, flipped


def names_of(things: list[int]) -> tuple[str, ...]:
    return tuple(map(str, range(len(things))))


def instances(masks, class_logits, geometry, things, name, kept) -> dict[str, np.ndarray]:
    query, label, _ = answers.best_pairs(class_logits, things=kept)
    found = answers.instances(masks, class_logits, geometry, classes=names_of(things), things=kept)
    return {
        f"{name}_query": query,
        f"{name}_labels": label,
        f"{name}_scores": np.array([segment.score for segment in found], np.float32),
    }


def panoptic(masks, class_logits, geometry, things, name, threshold) -> dict[str, np.ndarray]:
    found = answers.panoptic(
        masks,
        class_logits,
        geometry,
        classes=names_of(things),
        things=tuple(map(bool, things)),
        object_threshold=threshold,
        overlap_threshold=threshold,
    )
    segments = [(k, things[label], label) for k, label in enumerate(found.labels, 1)]
    return {name: found.ids, f"{name}_segments": np.array(segments, np.int32).reshape(-1, 3)}
