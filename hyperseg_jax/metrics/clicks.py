"""Number of clicks (NoC) of interactive segmentation, as computed by SEEM."""

from __future__ import annotations

from collections.abc import Sequence

from hyperseg_jax.metrics.sums import Sums

THRESHOLDS = (0.5, 0.8, 0.85, 0.9)
LIMIT = 20
"""Maximum clicks per object."""
AT = (1, 3, 5)
"""Numbers of clicks after which the IoU is reported."""


class ClickScores(Sums):
    """NoC@T, the mean number of clicks to reach IoU T (`limit` if it is never reached), and the mean IoU after each number of
    clicks in `at`. The start prompt counts as a click."""

    def __init__(self, limit: int = LIMIT, at: Sequence[int] = AT) -> None:
        super().__init__(limit=limit, at=list(at))
        # sums of one row: clicks to each of THRESHOLDS, objects that never reached each, IoU at each of `at`, objects
        first, last = len(THRESHOLDS), 2 * len(THRESHOLDS) + len(at)
        self.columns, self.count_column = last + 1, last
        self.bounds = tuple((k, last) for k in range(first, last))
        self.fractional = tuple(range(2 * first, last))

    def update(self, ious: Sequence[float]) -> None:
        """Adds one object: its IoU after each click, at most `limit`. The IoU is constant after the last click."""
        limit, at = self._options["limit"], self._options["at"]
        if not 1 <= len(ious) <= limit:
            raise ValueError(f"{len(ious)} clicks; pass 1 to {limit}")
        reached = [next((k for k, value in enumerate(ious, 1) if value >= threshold), None) for threshold in THRESHOLDS]
        later = [ious[min(k, len(ious)) - 1] for k in at]
        self._add("", *[k or limit for k in reached], *[k is None for k in reached], *later, 1)

    def compute(self) -> dict[str, float]:
        """Returns {"noc@50", "noc@80", "noc@85", "noc@90", "failed@...", "iou@<at>", "count"}."""
        total = self._total()
        means = total[:-1] / max(total[-1], 1)
        names = [f"{metric}@{100 * threshold:.0f}" for metric in ("noc", "failed") for threshold in THRESHOLDS]
        names += [f"iou@{k}" for k in self._options["at"]]
        return dict(zip(names, means.tolist(), strict=True)) | {"count": float(total[-1])}
