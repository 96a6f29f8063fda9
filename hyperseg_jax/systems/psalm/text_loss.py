"""The cross-entropy of supervised text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax.layers.token_tables import gather_table
from hyperseg_jax.llms.head import head_logits
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.psalm.trunk import Trunk


def text_loss(
    model: Trunk,
    params: Any,
    hidden: Float[DeviceArray, "B L D"],
    labels: Int[DeviceArray, "B L"],
    weights: Float32[DeviceArray, "*B"],
) -> Float32[jax.Array, ""]:
    """Returns the sum of the cross-entropies of the labels. weights: one weight for all of them, or one for each row."""
    precision = model.language_head.precision
    return text_cross_entropy_in_chunks(
        lambda kernel, hidden: head_logits(hidden, kernel, precision),
        gather_table(params["language_head"]["kernel"], precision),
        hidden,
        labels,
        weights=jnp.broadcast_to(weights, labels.shape[:1]),
    )
