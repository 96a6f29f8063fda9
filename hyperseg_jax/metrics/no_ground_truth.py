"""Answers whose truth is on the benchmark's server."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums


class NoGroundTruth(Sums):
    """How many were given."""

    columns = 1

    def update(self) -> None:
        """One answer."""
        self._add("", 1)

    def compute(self) -> dict[str, float]:
        """{"count"}."""
        return {"count": float(self._total()[0])}
