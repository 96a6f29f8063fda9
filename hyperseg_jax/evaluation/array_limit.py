"""Checks the arrays of a program against the limit `array`, before anything is computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from hyperseg_jax import jaxprs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.printing import escaped

NUMBER = 4
"""Bytes of a number of the limit `array`."""


def limit_arrays(function: Any) -> Callable[..., Any]:
    """Wraps a jitted f(params, batch, ...): the first call with new shapes raises UserError if one of its arrays, divided by
    the rows of the batch, has more numbers of four bytes than the limit `array`, and than the largest parameter. params: any
    arrays without rows, such as thresholds."""
    accepted: set[Any] = set()

    @functools.wraps(function)
    def limited(params: Any, *arguments: Any, **options: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        limit = limits.current().array
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), limit
        if key not in accepted:
            rows = leaves[0].shape[0] if leaves else 1
            largest_parameter = max((leaf.nbytes for leaf in jax.tree.leaves(params)), default=0)
            largest = jaxprs.largest_array(function.trace(params, *arguments, **options).jaxpr.jaxpr)
            if largest.bytes > max(limit * NUMBER * rows, largest_parameter):
                size = " x ".join(map(str, largest.shape))
                raise UserError(
                    f"model.{escaped(largest.module)}: an array of {size} for {rows} images would exceed the limit of {limit} "
                    f"numbers of {NUMBER} bytes for each; if that is intended, raise limits.array"
                )
            accepted.add(key)
        return function(params, *arguments, **options)

    return limited
