"""Imports a case's published weights into our modules through the weight tables."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from hyperseg_jax.tables import Table


def abstract_params(module: nn.Module, *inputs: Any) -> dict[str, Any]:
    """Returns the abstract parameters of a module, without initializing them."""
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])


def import_params(weights: dict[str, np.ndarray], **parts: tuple[dict[str, Any], Table, str]) -> dict[str, Any]:
    """Returns {part: parameters} of every part, each given as (abstract parameters, table, published prefix).

    Every weight must be used and every parameter filled; exporting must restore every weight bit by bit.
    """
    table = Table.join(table.with_prefix(f"{part}/", prefix) for part, (_, table, prefix) in parts.items())
    params = table.to_flax(weights, {part: tree for part, (tree, _, _) in parts.items()})
    exported = table.to_torch(params)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name)
    return params


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))
