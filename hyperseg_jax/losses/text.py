"""The loss of the written answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

IGNORED = -100  # PyTorch's ignore_index, used in every published data set


def text_cross_entropy(logits: jax.Array, labels: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
    """Cross-entropy of the next token, mean over all supervised tokens of the batch; 0 where there is none.

    logits: [B, L, V]. labels: int [B, L], -100 where nothing is taught; position t is taught the label at t + 1.
    tokens: the divisor, where the batch is a shard; by default the number of supervised tokens.
    """
    logits, wanted = logits[:, :-1].astype(jnp.float32), labels[:, 1:]
    taught = wanted != IGNORED
    picked = jnp.take_along_axis(logits, jnp.where(taught, wanted, 0)[..., None], axis=-1)[..., 0]
    each = jnp.where(taught, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)
    return each.sum() / jnp.maximum(taught.sum() if tokens is None else tokens, 1)
