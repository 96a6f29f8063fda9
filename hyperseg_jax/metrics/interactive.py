"""Mean IoU of drawn prompts, for each kind of mark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.ciou_giou import iou, overlap


class InteractiveScores:
    """Mean IoU over regions, whole and by kind of mark ("point", "scribble", "box", "mask")."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}  # for each kind: intersection, union, sum of IoU, regions

    def update(
        self, prediction: np.ndarray, target: np.ndarray, kinds: Sequence[str], ignore: np.ndarray | None = None
    ) -> None:
        """prediction, target: bool [R, H, W], in the order of kinds; ignore: bool [H, W]."""
        for mask, wanted, kind in zip(prediction, target, kinds, strict=True):
            intersection, union = overlap(mask, wanted, ignore)
            row = np.array([intersection, union, iou(intersection, union), 1], np.float64)
            self._sums[kind] = self._sums.get(kind, 0) + row

    def merge(self, other: InteractiveScores) -> None:
        """Adds what another accumulator has seen."""
        for kind, row in other._sums.items():
            self._sums[kind] = self._sums.get(kind, 0) + row

    def compute(self) -> dict[str, float]:
        """{"miou", "ciou", "count"} over all regions and "miou/<kind>", "ciou/<kind>"."""
        total = sum(self._sums.values(), np.zeros(4))
        scores = {"count": float(total[3])}
        for suffix, row in [("", total), *((f"/{kind}", row) for kind, row in sorted(self._sums.items()))]:
            scores |= {f"miou{suffix}": float(row[2] / max(row[3], 1)), f"ciou{suffix}": float(row[0] / max(row[1], 1))}
        return scores
