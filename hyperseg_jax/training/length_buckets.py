"""Truncation of batches to the shortest length bucket that holds all of their sequences.

The bucket is chosen on the devices, from the whole batch, so all devices take the same one without communication between hosts,
and the data stream does not depend on it. All buckets are branches of a single compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.system import System

T = TypeVar("T")


def apply_at_bucket_length(function: Callable[[Batch], T], batch: Batch, lengths: Sequence[int], system: System) -> T:
    """Returns function(batch), with sequences truncated to the shortest of `lengths` that holds all of them, if there is one.

    Differentiate inside `function`: differentiating through the switch would store the residuals of every branch.
    """
    shorter = [length for length in sorted(lengths) if system.shorten(batch, length) is not None]
    if not shorter:
        return function(batch)

    def branch(length: int) -> Callable[[Batch], T]:
        return lambda batch: function(system.shorten(batch, length) or batch)

    bucket = (system.needed_length(batch) > jnp.asarray(shorter, jnp.int32)).sum()
    return jax.lax.switch(bucket, [*map(branch, shorter), function], batch)
