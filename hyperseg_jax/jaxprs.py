"""Walks traced programs (jaxprs)."""

from __future__ import annotations

import math
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


def largest_array(jaxpr: Any) -> tuple[tuple[int, ...], str]:
    """Returns the shape of the largest array that the equations of a jaxpr compute, and the name stack of its equation: the
    path of its Flax module. Without equations: an empty shape."""
    shapes = (
        (tuple(out.aval.shape), str(equation.source_info.name_stack))
        for equation in equations(jaxpr)
        for out in equation.outvars
        if hasattr(out.aval, "shape")
    )
    return max(shapes, key=lambda shape: math.prod(shape[0]), default=((), ""))


def _find_jaxprs(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [jaxpr for part in value for jaxpr in _find_jaxprs(part)]
    return []
