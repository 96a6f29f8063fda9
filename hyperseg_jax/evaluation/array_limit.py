"""Checks the arrays of a program against the limit `array`, before anything is computed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from hyperseg_jax import jaxprs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.printing import escaped


def limit_arrays(function: Any) -> Callable[..., Any]:
    """Wraps a jitted f(params, batch, features, ...): the first call with new shapes raises UserError if one of its arrays,
    divided by the rows of the batch, has more numbers than the limit `array`, and than the largest parameter."""
    accepted: set[Any] = set()

    @functools.wraps(function)
    def limited(params: Any, *arguments: Any, **options: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), limits.current().array
        if key not in accepted:
            rows = leaves[0].shape[0] if leaves else 1
            allowed = max(limits.current().array, *(leaf.size for leaf in jax.tree.leaves(params)))
            _check_largest(function.trace(params, *arguments, **options).jaxpr.jaxpr, rows, allowed)
            accepted.add(key)
        return function(params, *arguments, **options)

    return limited


def _check_largest(jaxpr: Any, rows: int, allowed: int) -> None:
    shape, module = jaxprs.largest_array(jaxpr)
    if math.prod(shape) > allowed * rows:
        size = " x ".join(map(str, shape))
        raise UserError(
            f"model.{escaped(module)}: an array of {size} numbers for {rows} images would exceed the limit of "
            f"{limits.current().array} numbers for each; if that is intended, raise limits.array"
        )
