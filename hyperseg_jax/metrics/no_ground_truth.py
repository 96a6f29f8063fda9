"""Counts predictions of benchmarks whose ground truth is only on their evaluation server."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums


class NoGroundTruth(Sums):
    """The number of predictions."""

    columns = 1
    update_columns = (0,)

    def update(self) -> None:
        """Adds one prediction."""
        self._add("", 1)

    def compute(self) -> dict[str, float]:
        """Returns {"count"}."""
        return {"count": float(self._total()[0])}
