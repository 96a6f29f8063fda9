"""cIoU and gIoU of referring and reasoning segmentation, as LISA, PSALM, HyperSeg and InstructSeg count them."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.metrics.sums import Sums, check_rules

_EPSILON = 1e-5
"""Stands in the published code under every per-image union and under the count of images."""


PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


def overlap(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two bool masks of one shape, without the ignored ones."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
    counted = True if ignore is None else ~ignore
    both, either = prediction & target & counted, (prediction | target) & counted
    return int(both.sum()), int(either.sum())


def iou(intersection: float, union: float) -> float:
    """IoU of one image; 1 where neither mask has a pixel."""
    return intersection / (union + _EPSILON) if union else 1.0


class ReferringScores(Sums):
    """cIoU (sum of intersections over sum of unions) and gIoU (mean of the images' IoU), whole and by group.

    A prompt that names nothing has an empty target: an empty prediction scores IoU 1, any other 0 and adds its pixels to
    the union. absent_accuracy is the share of such prompts answered with an empty mask. precision@T is the share of images
    with an IoU of at least T.

    rules: of ReasonSeg's ignored regions. "official": they do not count (LISA). "released": they are background, as HyperSeg
    and InstructSeg score them.
    """

    sometimes = ("absent_accuracy",)

    # sums of each group: intersection, union, IoU, prompts, prompts without target, of those answered empty, then prompts of
    # at least each IoU of PRECISIONS
    columns = 6 + len(PRECISIONS)
    within = ((0, 1), (2, 3), (4, 3), (5, 4), *((k, 3) for k in range(6, 6 + len(PRECISIONS))))
    counted = 3

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(self, prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, group: str = "") -> None:
        """prediction, target, ignore: bool, of one shape ([H, W], or [T, H, W] for a clip)."""
        counted = ignore if self._options["rules"] == "official" else None
        intersection, union = overlap(prediction, target, counted)
        absent = not target.any()
        precise = [intersection >= least * union for least in PRECISIONS]
        self._add(group, intersection, union, iou(intersection, union), 1, absent, absent and not union, *precise)

    def compute(self) -> dict[str, float]:
        """{"ciou", "giou", "count", "precision@0.5"..., "absent_accuracy" (where there were any)} and "giou/<group>",
        "ciou/<group>"."""
        total = self._total()
        scores = {"ciou": _ciou(total), "giou": _giou(total), "count": float(total[3])}
        if total[4]:
            scores["absent_accuracy"] = float(total[5] / total[4])
        for least, number in zip(PRECISIONS, total[6:], strict=True):
            scores[f"precision@{least}"] = float(number / max(total[3], 1))
        for group, row in sorted(self._sums.items()):
            if group:
                scores |= {f"ciou/{group}": _ciou(row), f"giou/{group}": _giou(row)}
        return scores


def _ciou(row: np.ndarray) -> float:
    return float(row[0] / (row[1] + 1e-10))


def _giou(row: np.ndarray) -> float:
    return float(row[2] / (row[3] + _EPSILON))
