"""Mean IoU of visual prompts by kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.ciou_giou import count_overlap, iou
from hyperseg_jax.metrics.sums import Sums


class InteractiveScores(Sums):
    """Mean IoU over regions, overall and by kind of visual prompt ("point", "scribble", "box", "mask")."""

    # sums of each kind: intersection, union, IoU, regions
    columns = 4
    bounds = ((0, 1), (2, 3))
    count_column = 3
    fractional = (2,)

    def update(
        self, prediction: np.ndarray, target: np.ndarray, kinds: Sequence[str], ignore: np.ndarray | None = None
    ) -> None:
        """Adds the regions of an image. prediction, target: bool [R, H, W], one per kind; ignore: bool [H, W]."""
        for mask, target_mask, kind in zip(prediction, target, kinds, strict=True):
            intersection, union = count_overlap(mask, target_mask, ignore)
            self._add(kind, intersection, union, iou(intersection, union), 1)

    def compute(self) -> dict[str, float]:
        """Returns {"miou", "ciou", "count"} over all regions and "miou/<kind>", "ciou/<kind>"."""
        total = self._total()
        scores = {"count": float(total[3])}
        for suffix, row in [("", total), *((f"/{kind}", row) for kind, row in sorted(self._sums.items()))]:
            scores |= {f"miou{suffix}": float(row[2] / max(row[3], 1)), f"ciou{suffix}": float(row[0] / max(row[1], 1))}
        return scores
