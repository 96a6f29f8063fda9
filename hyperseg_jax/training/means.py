"""Means of the metrics of each task over some steps, summed on the device so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = Mapping[str, Any]
"""Name of a metric -> float32 [2]: the sum of its finite values, and how many there were."""


class RunningMeans:
    """Sums of metrics by task. A value that is not finite is left out: such a step has changed nothing.

    state: what `state` of another returned.
    """

    def __init__(self, state: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._steps: dict[str, int] = {task: int(held["steps"]) for task, held in (state or {}).items()}
        self._sums: dict[str, Sums] = {
            task: {name: np.asarray(pair, np.float32) for name, pair in held["sums"].items()}
            for task, held in (state or {}).items()
        }

    def add(self, task: str, metrics: Mapping[str, Any]) -> None:
        """Adds the metrics of one step, scalars. Never waits for the device."""
        held = self._sums.get(task, {})
        self._sums[task] = _added({name: held.get(name, np.zeros(2, np.float32)) for name in metrics}, dict(metrics))
        self._steps[task] = self._steps.get(task, 0) + 1

    def compute(self) -> dict[str, dict[str, float]]:
        """{task: {"steps": their number, metric: mean}}, tasks by name; nan where no value was finite.
        Waits for the device."""
        told: dict[str, dict[str, float]] = {}
        for task, steps in sorted(self._steps.items()):
            pairs = {name: np.asarray(pair, np.float64) for name, pair in self._sums[task].items()}
            means = {name: float(total / count) if count else float("nan") for name, (total, count) in pairs.items()}
            told[task] = {"steps": steps, **means}
        return told

    def state(self) -> dict[str, Any]:
        """All sums as JSON takes them; nothing is rounded. Waits for the device."""
        return {
            task: {"steps": steps, "sums": {name: np.asarray(pair).tolist() for name, pair in self._sums[task].items()}}
            for task, steps in self._steps.items()
        }


@jax.jit
def _added(sums: dict[str, jax.Array], metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def one(pair: jax.Array, value: jax.Array) -> jax.Array:
        finite = jnp.isfinite(value)
        return pair + jnp.stack([jnp.where(finite, value, 0.0), finite]).astype(jnp.float32)

    return {name: one(sums[name], jnp.asarray(value)) for name, value in metrics.items()}
