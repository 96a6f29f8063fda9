"""Batches cut to the shortest of some lengths that holds all of their sequences.

Which one is decided on the devices, from the batch itself, so all of them take the same; no host has to know of the rows of
another, and the stream stays as it is. One program holds them all, with a branch for each length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from hyperseg_jax.structs import Source

T = TypeVar("T")


def at_its_length(function: Callable[[Any], T], batch: Any, lengths: Sequence[int]) -> T:
    """function(batch), the layout of the batch cut to the shortest of `lengths` that holds all of it, where one does.

    Differentiate inside: the gradient of a branch from outside would keep what every branch keeps.
    """
    if not lengths:
        return function(batch)
    layout = batch["layout"]
    whole = layout["source"].shape[1]
    shorter = sorted(n for n in lengths if n < whole)
    needed = (layout["source"] != Source.PADDING).sum(1).max()

    def at(length: int) -> Callable[[Any], T]:
        return lambda batch: function({**batch, "layout": {name: x[:, :length] for name, x in batch["layout"].items()}})

    number = (needed > jnp.asarray(shorter, jnp.int32)).sum()
    return jax.lax.switch(number, [at(length) for length in (*shorter, whole)], batch)
