"""Batches cut to shorter sequences, on the device."""

from __future__ import annotations

import jax

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.structs import Source


def shorten(batch: Batch, length: int) -> Batch | None:
    """The batch with its layouts [B, L] cut to that length; None where they are no longer."""
    layout = batch["layout"]
    if layout["source"].shape[1] <= length:
        return None
    return {**batch, "layout": {name: value[:, :length] for name, value in layout.items()}}


def needed(batch: Batch) -> jax.Array:
    """The positions of the longest layout that is no padding, an int32 scalar; padding lies behind all else."""
    taken: jax.Array = (batch["layout"]["source"] != Source.PADDING).sum(1).max()
    return taken
