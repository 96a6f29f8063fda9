"""Cuts batches to shorter sequences, on the device."""

from __future__ import annotations

import jax

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.structs import Source


def shorten(batch: Batch, length: int) -> Batch | None:
    """Returns the batch with its layouts [B, L] cut to length; None if they are not longer."""
    layout = batch["layout"]
    if layout["source"].shape[1] <= length:
        return None
    return {**batch, "layout": {name: value[:, :length] for name, value in layout.items()}}


def needed_length(batch: Batch) -> jax.Array:
    """Returns the number of positions of the longest layout without its padding, which is at the end, as an int32 scalar."""
    longest: jax.Array = (batch["layout"]["source"] != Source.PADDING).sum(1).max()
    return longest
