"""How well the queries of a stage match classes, phrases and visual prompts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax.structs import DeviceArray

NEVER = -1e30
"""The logit of a query that belongs to another prompt."""
EPSILON = 1e-7
"""Added to norms, as published."""


def normalize(x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
    """Divides vectors by their length plus EPSILON, in float32."""
    x = jnp.asarray(x, jnp.float32)
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON)


def class_logits(
    embeddings: Float[DeviceArray, "B Q C"], vectors: Float[DeviceArray, "*B K C"], log_scale: Float[DeviceArray, ""]
) -> Float[jax.Array, "B Q K"]:
    """Returns the scaled cosines of class embeddings and class vectors of unit length: of one list, or of one for each row."""
    scale = jnp.exp(jnp.asarray(log_scale, jnp.float32))
    product = "bqc,kc->bqk" if vectors.ndim == 2 else "bqc,bkc->bqk"
    return scale * jnp.einsum(product, normalize(embeddings), vectors, precision="highest")


LARGEST_SCALE = 100.0
"""Bound of the scale of phrases."""


def phrase_logits(
    embeddings: Float[DeviceArray, "B Q C"], vectors: Float[DeviceArray, "B N C"], log_scale: Float[DeviceArray, ""]
) -> Float[jax.Array, "B Q N"]:
    """Returns the scaled cosines of class embeddings and the vectors of phrases."""
    scale = jnp.minimum(jnp.exp(jnp.asarray(log_scale, jnp.float32)), LARGEST_SCALE)
    return scale * jnp.einsum("bqc,bnc->bqn", normalize(embeddings), normalize(vectors), precision="highest")


def mark_logits(
    embeddings: Float[DeviceArray, "B Q D"], means: Float[DeviceArray, "B N D"], *, per_prompt: int | None = None
) -> Float[jax.Array, "B Q N"]:
    """Returns the products of mask embeddings and the mean features of visual prompts: the mean mask logit at their pixels.

    per_prompt: number of queries of each prompt, which only answer their own; the others are NEVER. None: all queries answer
    all prompts.
    """
    logits = jnp.einsum("bqd,bnd->bqn", embeddings, means, precision="highest", preferred_element_type=jnp.float32)
    if per_prompt is None:
        return logits
    own = jnp.arange(logits.shape[1])[:, None] // per_prompt == jnp.arange(logits.shape[2])
    return jnp.where(own, logits, NEVER)


def choose_masks(
    logits: Float[DeviceArray, "B Q N"], masks: Float[DeviceArray, "B Q h w"]
) -> tuple[Float[jax.Array, "B N h w"], jax.Array]:
    """Returns the mask of the best query of each prompt, and the index of that query, int32 [B, N]."""
    best = jnp.argmax(logits, axis=1)
    return jnp.take_along_axis(masks, best[:, :, None, None], axis=1), best
