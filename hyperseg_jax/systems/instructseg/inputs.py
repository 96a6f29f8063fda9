"""The inputs of the model from the arrays of a batch, on the device."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.structs import Layout

PROMPTS = ("key_slot", "reference_slots", "expression", "expression_valid")


def slot_name(slot: int) -> str:
    """Returns the name of a slot of a frame for the language branch, and of its part; sorted by name, slots are in order."""
    return f"slot_{slot:03d}"


def layout_of(batch: Batch) -> Layout:
    """Returns the layout [B, L] of a batch."""
    return Layout(**batch["layout"])


def prompts_of(batch: Batch) -> dict[str, Any]:
    """Returns the prompts of a batch, as InstructSeg.predict_masks takes them."""
    return {name: jnp.asarray(batch[name]) for name in PROMPTS}
