"""Metrics of values that vary within a batch, such as those of gates: their mean and spread (standard deviation).

A loss reports the mean and the mean square, because both have the sums that Loss requires; the spread is computed from their
means over steps, when they are logged.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.system import Metrics

MEAN, MEAN_SQUARE, SPREAD = "/mean", "/mean_square", "/spread"


def moments(name: str, values: Float[DeviceArray, "B ..."], weights: Float32[DeviceArray, " B"]) -> Metrics:
    """Returns the metrics NAME/mean and NAME/mean_square of the values of B examples.

    weights: of the examples; those of the whole batch sum to one.
    """
    rows = values.astype(jnp.float32).reshape(values.shape[0], -1)
    return {name + MEAN: rows.mean(1) @ weights, name + MEAN_SQUARE: (rows**2).mean(1) @ weights}


def with_spreads(metrics: Mapping[str, float]) -> dict[str, float]:
    """Replaces each NAME/mean_square by NAME/spread."""
    result = {}
    for metric, value in metrics.items():
        name = metric.removesuffix(MEAN_SQUARE)
        if name == metric:
            result[metric] = value
        else:
            result[name + SPREAD] = float(np.sqrt(np.maximum(value - metrics[name + MEAN] ** 2, 0)))
    return result
