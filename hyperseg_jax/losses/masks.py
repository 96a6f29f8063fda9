"""Mask losses on sampled points, and the cost by which queries are matched to targets (Mask2Former, Cheng et al. 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax.structs import DeviceArray

MASKED = -1e30  # the logit of padding; finite, so that a row of nothing else has a gradient of zero


def mask_bce(logits: Float[DeviceArray, "*#B P"], wanted: Float[DeviceArray, "*#B P"]) -> Float[jax.Array, "*#B"]:
    """Binary cross-entropy, mean over points."""
    return jnp.mean(jax.nn.softplus(logits) - logits * wanted, axis=-1)


def mask_dice(logits: Float[DeviceArray, "*#B P"], wanted: Float[DeviceArray, "*#B P"]) -> Float[jax.Array, "*#B"]:
    """1 - dice with one added to both sides."""
    shares = jax.nn.sigmoid(logits)
    overlap = jnp.sum(shares * wanted, axis=-1)
    return 1 - (2 * overlap + 1) / (jnp.sum(shares, axis=-1) + jnp.sum(wanted, axis=-1) + 1)


def bce_cost(logits: Float[DeviceArray, "B Q P"], wanted: Float[DeviceArray, "B N P"]) -> Float[jax.Array, "B Q N"]:
    """mask_bce of every query with every target."""
    alike = jnp.einsum("bqp,bnp->bqn", logits, wanted, precision="highest")
    return (jnp.sum(jax.nn.softplus(logits), axis=-1)[..., None] - alike) / logits.shape[-1]


def dice_cost(logits: Float[DeviceArray, "B Q P"], wanted: Float[DeviceArray, "B N P"]) -> Float[jax.Array, "B Q N"]:
    """mask_dice of every query with every target."""
    shares = jax.nn.sigmoid(logits)
    overlap = jnp.einsum("bqp,bnp->bqn", shares, wanted, precision="highest")
    return 1 - (2 * overlap + 1) / (jnp.sum(shares, axis=-1)[..., None] + jnp.sum(wanted, axis=-1)[:, None] + 1)


def class_cost(
    logits: Float[DeviceArray, "B Q C"], labels: Int[DeviceArray, "B N"], class_valid: Bool[DeviceArray, "B C"] | None
) -> Float[jax.Array, "B Q N"]:
    """Minus the probability of each target's class."""
    if class_valid is not None:
        logits = jnp.where(class_valid[:, None], logits, MASKED)
    probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(probability, jnp.clip(labels, 0, logits.shape[-1] - 1)[:, None], axis=-1)
