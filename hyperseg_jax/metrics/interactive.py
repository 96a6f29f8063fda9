"""Mean IoU of drawn prompts, for each kind of mark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.ciou_giou import iou, overlap
from hyperseg_jax.metrics.sums import Sums


class InteractiveScores(Sums):
    """Mean IoU over regions, whole and by kind of mark ("point", "scribble", "box", "mask")."""

    # sums of each kind: intersection, union, IoU, regions
    columns = 4
    within = ((0, 1), (2, 3))
    counted = 3

    def update(
        self, prediction: np.ndarray, target: np.ndarray, kinds: Sequence[str], ignore: np.ndarray | None = None
    ) -> None:
        """prediction, target: bool [R, H, W], in the order of kinds; ignore: bool [H, W]."""
        for mask, wanted, kind in zip(prediction, target, kinds, strict=True):
            intersection, union = overlap(mask, wanted, ignore)
            self._add(kind, intersection, union, iou(intersection, union), 1)

    def compute(self) -> dict[str, float]:
        """{"miou", "ciou", "count"} over all regions and "miou/<kind>", "ciou/<kind>"."""
        total = self._total()
        scores = {"count": float(total[3])}
        for suffix, row in [("", total), *((f"/{kind}", row) for kind, row in sorted(self._sums.items()))]:
            scores |= {f"miou{suffix}": float(row[2] / max(row[3], 1)), f"ciou{suffix}": float(row[0] / max(row[1], 1))}
        return scores
