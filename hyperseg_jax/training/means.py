"""Running means of the metrics of each task, accumulated on the device so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = Mapping[str, Any]
"""Metric name -> float32 [2]: sum and count of its finite values."""


class RunningMeans:
    """Sums of metrics by task. Non-finite values are skipped, because such a step does not update the parameters.

    state: return value of `state()` to continue from.
    """

    def __init__(self, state: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._steps: dict[str, int] = {task: int(saved["steps"]) for task, saved in (state or {}).items()}
        self._sums: dict[str, Sums] = {
            task: {name: np.asarray(pair, np.float32) for name, pair in saved["sums"].items()}
            for task, saved in (state or {}).items()
        }

    def add(self, task: str, metrics: Mapping[str, Any]) -> None:
        """Adds the scalar metrics of one step without waiting for the device."""
        sums = self._sums.get(task, {})
        self._sums[task] = _add_to_sums({name: sums.get(name, np.zeros(2, np.float32)) for name in metrics}, dict(metrics))
        self._steps[task] = self._steps.get(task, 0) + 1

    def compute(self) -> dict[str, dict[str, float]]:
        """Returns {task: {"steps": number of steps, metric: mean}}, sorted by task; NaN if no value was finite. Waits for the
        device."""
        result: dict[str, dict[str, float]] = {}
        for task, steps in sorted(self._steps.items()):
            pairs = {name: np.asarray(pair, np.float64) for name, pair in self._sums[task].items()}
            means = {name: float(total / count) if count else float("nan") for name, (total, count) in pairs.items()}
            result[task] = {"steps": steps, **means}
        return result

    def state(self) -> dict[str, Any]:
        """Returns all sums as JSON values, without rounding. Waits for the device."""
        return {
            task: {"steps": steps, "sums": {name: np.asarray(pair).tolist() for name, pair in self._sums[task].items()}}
            for task, steps in self._steps.items()
        }


@jax.jit
def _add_to_sums(sums: dict[str, jax.Array], metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def add_value(pair: jax.Array, value: jax.Array) -> jax.Array:
        finite = jnp.isfinite(value)
        return pair + jnp.stack([jnp.where(finite, value, 0.0), finite]).astype(jnp.float32)

    return {name: add_value(sums[name], jnp.asarray(value)) for name, value in metrics.items()}
