"""The choice of the next token from its logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32, Key

from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.structs import DeviceArray

Ids = Int32[jax.Array, " M"]


def choose_best(logits: Float[DeviceArray, "M V"]) -> Ids:
    """Returns the most probable tokens."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def choose_randomly(logits: Float[DeviceArray, "M V"], keys: Key[jax.Array, " M"], decoding: Decoding) -> Ids:
    """Samples a token for each text with its own key, independently of the other texts; see Decoding."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    sorted_logits = jnp.take_along_axis(logits, order, axis=-1).astype(jnp.float32) / decoding.temperature
    kept = (decoding.top_k == 0) | (jnp.arange(logits.shape[-1]) < decoding.top_k)
    probabilities = jax.nn.softmax(jnp.where(kept, sorted_logits, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of the more probable tokens
    kept &= (before < decoding.top_p) | (decoding.top_p >= 1)
    rank = jax.vmap(jax.random.categorical)(keys, jnp.where(kept, sorted_logits, -jnp.inf))
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)
