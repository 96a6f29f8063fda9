"""Walks traced programs (jaxprs)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def inner_jaxprs(equation: Any) -> list[Any]:
    """Returns the jaxprs in the parameters of an equation, such as the body of a loop."""
    return [jaxpr for value in equation.params.values() for jaxpr in _find_jaxprs(value)]


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields all equations of a jaxpr, with those of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


@dataclasses.dataclass(frozen=True)
class ComputedArray:
    """An array that a program computes. module: the name stack of its equation, which is the path of its Flax module."""

    shape: tuple[int, ...] = ()
    bytes: int = 0
    module: str = ""


def largest_array(jaxpr: Any) -> ComputedArray:
    """Returns the largest array that the equations of a jaxpr compute."""
    arrays = (
        ComputedArray(tuple(out.aval.shape), out.aval.size * out.aval.dtype.itemsize, str(equation.source_info.name_stack))
        for equation in equations(jaxpr)
        for out in equation.outvars
        if hasattr(out.aval, "shape")
    )
    return max(arrays, key=lambda array: array.bytes, default=ComputedArray())


def _find_jaxprs(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [jaxpr for part in value for jaxpr in _find_jaxprs(part)]
    return []
