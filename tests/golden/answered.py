"""What results/ makes of a case's mask logits and scores, by the names of the outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.results.mask_resize import canvas, geometry_array, mask_resize, resize_masks
from hyperseg_jax.structs import Prompt


def geometry_of(inputs: dict[str, np.ndarray]) -> Geometry:
    """How the case's image lies in its padded input."""
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
    masks, scores = jnp.asarray(masks), jax.tree.map(jnp.asarray, scores)
    here = resize_of(masks, geometry)
    logits, flipped = own(resize_masks(masks, here), geometry), 0
    made = {"post_mask_logits": logits}
    if positive is not None:
        logits, flipped = settled(logits, positive, legal)
    if flipped:  # the answers are asked again, from masks that need no resizing
        masks, size = jnp.asarray(logits), logits.shape[-2:]
        geometry = Geometry(size, size, size)
        here = resize_of(masks, geometry)
    sure = np.asarray(selection.mask_scores(logits))
    if "expression" in scores:
        made["scores_by_query"] = sigmoid(scores["expression"]) * sure
        best, *_ = selection.best_query(masks, scores["expression"], here, True)
        made["best_query"] = np.asarray(best)[None]
        found = selection.expression(masks, scores["expression"], here, enabled=True, soft=True)
        made["best_soft_mask"] = own(found["mask"], geometry)
    if "region" in scores:
        made["completed_region_scores"] = sigmoid(scores["region"]) * sure[:, None]
    if "class" in scores and things is not None:
        given = masks, scores["class"], here
        valid = np.ones(scores["class"].shape[-1], bool)
        made["completed_sem_seg"] = own(selection.by_rows(lambda sums: sums[:-1], *given, valid=valid), geometry)
        prompt = Prompt("panoptic", classes=tuple(map(str, range(len(things)))), things=tuple(map(bool, things)))
        found = jax.device_get(selection.instances(*given, valid=valid, limit=len(masks)))
        for name, kept in (
            ("completed_instance", found["valid"] & np.array(things, bool)[found["label"]]),
            ("completed_instance_all", found["valid"]),
        ):
            made |= {
                f"{name}_query": found["query"][kept],
                f"{name}_labels": found["label"][kept],
                f"{name}_scores": found["score"][kept],
            }
        for name, threshold in (("completed_panoptic_ref", 0.8), ("completed_panoptic_low", 0.3)):
            limits = {"object_threshold": threshold, "overlap_threshold": threshold}
            chosen = jax.device_get(selection.panoptic(*given, valid=valid, **limits))
            segments = answers.panoptic(chosen, prompt, geometry, Thresholds(None, threshold, threshold))
            listed = [(k, things[label], label) for k, label in enumerate(segments.labels, 1)]
            made |= {name: segments.ids, f"{name}_segments": np.array(listed, np.int32).reshape(-1, 3)}
    return made, flipped


def resize_of(masks: np.ndarray, geometry: Geometry):
    return mask_resize(geometry_array(geometry), masks.shape[-2:], canvas(*geometry.original))


def own(maps, geometry: Geometry) -> np.ndarray:
    """Maps [..., H, W] of a canvas at the size of the image."""
    height, width = geometry.original
    return np.asarray(maps)[..., :height, :width]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(logits))
