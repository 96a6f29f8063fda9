"""Scaled dot-product attention; scores and softmax are always float32."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyperseg_jax.structs import DeviceArray

Weights = Float[jax.Array, "*_batch heads Lq Lk"]


def attend(
    query: Float[DeviceArray, "*#batch Lq heads D"],
    key: Float[DeviceArray, "*#batch Lk heads D"],
    value: Float[DeviceArray, "*#batch Lk heads D2"],
    *,
    mask: Bool[DeviceArray, "*_mask"] | None = None,
    bias: Float[DeviceArray, "*_bias"] | None = None,
    drop: Callable[[Weights], Weights] | None = None,
    precision: str = "highest",
) -> Float[jax.Array, "*_ Lq heads D2"]:
    """Returns softmax(query key^T / sqrt(D) + bias) value, in the dtype of value.

    mask: bool, True = may attend, broadcast to [..., heads, Lq, Lk]; a fully masked row has uniform weights.
    bias: float, broadcast to [..., heads, Lq, Lk]. drop: dropout of the weights [..., heads, Lq, Lk].
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("...qhd,...khd->...hqk", query * scale, key, precision=precision, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if drop is not None:
        weights = drop(weights)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value, precision=precision)
