"""cIoU and gIoU of referring and reasoning segmentation, as computed by LISA, PSALM, HyperSeg and InstructSeg."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.metrics.sums import Sums, check_masks, check_rules

_EPSILON = 1e-5
"""The published code adds it to every per-image union and to the number of images."""


PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


def count_overlap(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> tuple[int, int]:
    """Returns the pixel counts of the intersection and union of two bool masks, without ignored pixels."""
    check_masks(prediction=prediction, target=target, ignore=ignore)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
    counted = True if ignore is None else ~ignore
    intersection, union = prediction & target & counted, (prediction | target) & counted
    return int(intersection.sum()), int(union.sum())


def iou(intersection: float, union: float) -> float:
    """Returns the IoU of one image; 1 if both masks are empty."""
    return intersection / (union + _EPSILON) if union else 1.0


class ReferringScores(Sums):
    """cIoU (sum of intersections over sum of unions) and gIoU (mean of the images' IoU), overall and by group.

    A prompt without target has an empty mask: an empty prediction scores IoU 1, any other scores 0 and adds its pixels to the
    union. absent_accuracy is the share of such prompts with an empty prediction. precision@T is the share of images with an
    IoU of at least T.

    rules: for ReasonSeg's ignored regions. "official": they are excluded (LISA). "released": they are background, as in
    HyperSeg and InstructSeg.
    """

    optional_scores = ("absent_accuracy",)

    # sums of each group: intersection, union, IoU, prompts, prompts without target, of these with empty prediction, then
    # prompts with at least each IoU of PRECISIONS
    columns = 6 + len(PRECISIONS)
    bounds = ((0, 1), (2, 3), (4, 3), (5, 4), *((k, 3) for k in range(6, 6 + len(PRECISIONS))))
    count_column = 3
    fractional = (2,)
    update_columns = (3,)

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(self, prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, group: str = "") -> None:
        """Adds one prompt. prediction, target, ignore: bool, of one shape ([H, W], or [T, H, W] for a video)."""
        ignored = ignore if self._options["rules"] == "official" else None
        intersection, union = count_overlap(prediction, target, ignored)
        absent = not target.any()
        passed = [intersection >= threshold * union for threshold in PRECISIONS]
        self._add(group, intersection, union, iou(intersection, union), 1, absent, absent and not union, *passed)

    def compute(self) -> dict[str, float]:
        """Returns {"ciou", "giou", "count", "precision@0.5"..., "absent_accuracy" (if targets were absent)} and "giou/<group>",
        "ciou/<group>"."""
        total = self._total()
        scores = {"ciou": _ciou_from_sums(total), "giou": _giou_from_sums(total), "count": float(total[3])}
        if total[4]:
            scores["absent_accuracy"] = float(total[5] / total[4])
        for threshold, number in zip(PRECISIONS, total[6:], strict=True):
            scores[f"precision@{threshold}"] = float(number / max(total[3], 1))
        for group, row in sorted(self._sums.items()):
            if group:
                scores |= {f"ciou/{group}": _ciou_from_sums(row), f"giou/{group}": _giou_from_sums(row)}
        return scores


def _ciou_from_sums(row: np.ndarray) -> float:
    return float(row[0] / (row[1] + 1e-10))


def _giou_from_sums(row: np.ndarray) -> float:
    return float(row[2] / (row[3] + _EPSILON))
