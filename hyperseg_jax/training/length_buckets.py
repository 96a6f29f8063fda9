"""Batches cut to the shortest of some lengths that holds all of their sequences.

Which one is decided on the devices, from the batch itself, so all of them take the same; no host has to know of the rows of
another, and the stream stays as it is. One program holds them all, with a branch for each length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.system import System

T = TypeVar("T")


def at_its_length(function: Callable[[Batch], T], batch: Batch, lengths: Sequence[int], system: System) -> T:
    """function(batch), the sequences of the batch cut to the shortest of `lengths` that holds all of them, where one does.

    Differentiate inside: the gradient of a branch from outside would keep what every branch keeps.
    """
    shorter = [length for length in sorted(lengths) if system.shorten(batch, length) is not None]
    if not shorter:
        return function(batch)

    def at(length: int) -> Callable[[Batch], T]:
        return lambda batch: function(system.shorten(batch, length) or batch)

    number = (system.needed_length(batch) > jnp.asarray(shorter, jnp.int32)).sum()
    return jax.lax.switch(number, [*map(at, shorter), function], batch)
