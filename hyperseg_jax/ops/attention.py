"""Scaled dot-product attention; scores and softmax are float32 in any policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    precision: str = "highest",
) -> jax.Array:
    """softmax(query key^T / sqrt(D) + bias) value.

    query [..., Lq, heads, D], key and value [..., Lk, heads, D] -> [..., Lq, heads, D] in value's type.
    mask: bool, True = may attend, broadcast to [..., heads, Lq, Lk]; a row with nothing to attend to gives equal weights.
    bias: float, broadcast to [..., heads, Lq, Lk].
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("...qhd,...khd->...hqk", query * scale, key, precision=precision, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value, precision=precision)
