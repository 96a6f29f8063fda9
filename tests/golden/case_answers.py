"""Post-processing of a case's mask logits and scores, by the names of the case's outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import Prompt


def case_geometry(inputs: dict[str, np.ndarray]) -> Geometry:
    """Returns the geometry of the case's image in its padded input."""
    valid = inputs["padding_mask"] == 0
    filled = (int(valid.any(1).sum()), int(valid.any(0).sum()))
    return Geometry(tuple(inputs["out_hw"].tolist()), filled, valid.shape)


SMALLEST_LOGIT = np.float32(2e-7)  # the smallest logit whose float32 probability differs from one half


def align_signs(logits: np.ndarray, positive: np.ndarray, allowed: float) -> tuple[np.ndarray, int]:
    """Returns the logits with the signs of `positive` where they differ within `allowed` of zero, and the number of changes."""
    flipped = ((logits > 0) != positive) & (np.abs(logits) <= allowed)
    return np.where(flipped, np.where(positive, SMALLEST_LOGIT, -SMALLEST_LOGIT), logits), int(flipped.sum())


def signs_from_quality(logits: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Returns bool [Q, H, W], the signs of logits [Q, H, W], for a case without the masks of all queries: that of the pixel
    nearest to zero is the one that gives the mask quality [Q] of the case more closely."""
    positive = logits > 0
    for signs, values, expected in zip(positive, logits, quality, strict=True):
        nearest = np.unravel_index(np.abs(values).argmin(), values.shape)
        probabilities = 1 / (1 + np.exp(-values.astype(np.float64)))
        errors = {}
        for sign in (False, True):
            signs[nearest] = sign
            errors[sign] = abs(probabilities[signs].sum() / (signs.sum() + 1e-6) - expected)
        signs[nearest] = errors[True] < errors[False]
    return positive


def compute_answers(
    masks: np.ndarray,
    scores: dict[str, np.ndarray],
    geometry: Geometry,
    things: list[int] | None,
    positive: np.ndarray | None = None,
    allowed: float = 0.0,
    case_scores: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Returns (answers by output name, number of pixels with a tolerated sign flip).

    masks [Q, h, w]; scores by kind: "expression" [Q], "class" [Q, C + 1], "region" [Q, R]. things: thing flag of each class.
    positive: bool [Q, H, W], the case's masks. A score is a mean over the pixels of its mask, so that one pixel near zero
    changes it by more than its floor. Where our sign differs within `allowed` of zero, the case's sign is used.
    """
    masks, scores = jnp.asarray(masks), jax.tree.map(jnp.asarray, scores)
    resize = resize_for(masks, geometry)
    logits, flipped = crop_to_image(resize_masks(masks, resize), geometry), 0
    output = {"post_mask_logits": logits}
    if positive is None and case_scores is not None and "expression" in scores:
        positive = signs_from_quality(logits, case_scores / sigmoid(scores["expression"]))
    if positive is not None:
        logits, flipped = align_signs(logits, positive, allowed)
    if flipped:  # post-process again, from masks that need no resizing
        masks, size = jnp.asarray(logits), logits.shape[-2:]
        geometry = Geometry(size, size, size)
        resize = resize_for(masks, geometry)
    mask_quality = np.asarray(selection.mask_scores(logits))
    if "expression" in scores:
        output["scores_by_query"] = sigmoid(scores["expression"]) * mask_quality
        best, *_ = selection.find_best_query(masks, scores["expression"], resize, True)
        output["best_query"] = np.asarray(best)[None]
        result = selection.select_expression(masks, scores["expression"], resize, enabled=True, soft=True)
        output["best_soft_mask"] = crop_to_image(result["mask"], geometry)
    if "region" in scores:
        output["completed_region_scores"] = sigmoid(scores["region"]) * mask_quality[:, None]
    if "class" in scores and things is not None:
        args = masks, scores["class"], resize
        valid = np.ones(scores["class"].shape[-1], bool)
        output["completed_sem_seg"] = crop_to_image(
            selection.reduce_class_scores_by_rows(lambda sums: sums[:-1], *args, valid=valid), geometry
        )
        prompt = Prompt("panoptic", classes=tuple(map(str, range(len(things)))), things=tuple(map(bool, things)))
        result = jax.device_get(selection.select_instances(*args, valid=valid, limit=len(masks)))
        for name, kept in (
            ("completed_instance", result["valid"] & np.array(things, bool)[result["label"]]),
            ("completed_instance_all", result["valid"]),
        ):
            output |= {
                f"{name}_query": result["query"][kept],
                f"{name}_labels": result["label"][kept],
                f"{name}_scores": result["score"][kept],
            }
        for name, threshold in (("completed_panoptic_ref", 0.8), ("completed_panoptic_low", 0.3)):
            limits = {"object_threshold": threshold, "overlap_threshold": threshold}
            chosen = jax.device_get(selection.select_panoptic(*args, valid=valid, **limits))
            segments = answers.predict_panoptic(chosen, prompt, geometry, Thresholds(None, threshold, threshold))
            listed = [(k, things[label], label) for k, label in enumerate(segments.labels, 1)]
            output |= {name: segments.ids, f"{name}_segments": np.array(listed, np.int32).reshape(-1, 3)}
    return output, flipped


def resize_for(masks: np.ndarray, geometry: Geometry):
    return make_mask_resize(geometry_array(geometry), masks.shape[-2:], canvas_size(*geometry.original))


def crop_to_image(maps, geometry: Geometry) -> np.ndarray:
    """Crops maps [..., H, W] of a canvas to the size of the image."""
    height, width = geometry.original
    return np.asarray(maps)[..., :height, :width]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(logits))
