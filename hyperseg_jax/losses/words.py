"""Which words describe an image, from scores of its cells (multiple instance learning: Fang et al. 2015, arXiv 1411.4952)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Float32

from hyperseg_jax.structs import DeviceArray

SCALE, BIAS = 12.0, -1.0
"""Of a cosine as a logit."""


def word_presence_loss(
    cosines: Float[DeviceArray, "B cells V"], valid: Bool[DeviceArray, "*B cells"], present: Bool[DeviceArray, "B V"]
) -> Float32[jax.Array, " B"]:
    """Returns the cross-entropy of the presence of each word in the captions of an image, summed over the words.

    A word is present if it fits some cells; its logit is pooled over the cells by the logarithm of the mean exponential
    (Pinheiro & Collobert 2015, arXiv 1411.6228). cosines: between cells and words. valid: cells that belong to the image; if
    none do, the loss is as if all did, so that it and its gradient are finite.
    """
    known = jnp.broadcast_to(valid, cosines.shape[:2])[..., None]
    known |= ~known.any(axis=1, keepdims=True)
    scores = jnp.where(known, SCALE * cosines.astype(jnp.float32), -jnp.inf)
    pooled = jax.nn.logsumexp(scores, axis=1) - jnp.log(known.sum(axis=1)) + BIAS
    loss: Float32[jax.Array, "B V"] = optax.sigmoid_binary_cross_entropy(pooled, present)
    return loss.sum(axis=-1)
