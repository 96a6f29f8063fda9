"""Number of clicks (NoC) of interactive segmentation, as computed by SEEM."""

from __future__ import annotations

from collections.abc import Sequence

from hyperseg_jax.metrics.sums import Sums

THRESHOLDS = (0.5, 0.8, 0.85, 0.9)
LIMIT = 20
"""Maximum clicks per object."""


class ClickScores(Sums):
    """NoC@T, the mean number of clicks to reach IoU T (`limit` if it is never reached), and the mean IoU after click `at`."""

    # sums of one row: clicks to each of THRESHOLDS, objects that never reached each, IoU at click `at`, objects
    columns = 2 * len(THRESHOLDS) + 2
    bounds = tuple((k, 2 * len(THRESHOLDS) + 1) for k in range(len(THRESHOLDS), 2 * len(THRESHOLDS) + 1))
    count_column = columns - 1
    fractional = (columns - 2,)

    def __init__(self, limit: int = LIMIT, at: int = 1) -> None:
        super().__init__(limit=limit, at=at)

    def update(self, ious: Sequence[float]) -> None:
        """Adds one object: its IoU after each click, at most `limit`. The IoU is constant after the last click."""
        limit, at = self._options["limit"], self._options["at"]
        if not 1 <= len(ious) <= limit:
            raise ValueError(f"{len(ious)} clicks; pass 1 to {limit}")
        reached = [next((k for k, value in enumerate(ious, 1) if value >= threshold), None) for threshold in THRESHOLDS]
        self._add("", *[k or limit for k in reached], *[k is None for k in reached], ious[min(at, len(ious)) - 1], 1)

    def compute(self) -> dict[str, float]:
        """Returns {"noc@50", "noc@80", "noc@85", "noc@90", "failed@...", "iou@<at>", "count"}."""
        total = self._total()
        means = total[:-1] / max(total[-1], 1)
        names = [f"{metric}@{100 * threshold:.0f}" for metric in ("noc", "failed") for threshold in THRESHOLDS]
        names.append(f"iou@{self._options['at']}")
        return dict(zip(names, means.tolist(), strict=True)) | {"count": float(total[-1])}
