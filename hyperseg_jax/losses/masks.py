"""Mask losses on sampled points, and the cost by which queries are matched to targets (Mask2Former, Cheng et al. 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax.structs import DeviceArray

MASKED = -1e30  # logit of padding; finite, so that the gradient of a fully padded row is zero


def mask_bce(logits: Float[DeviceArray, "*#B P"], targets: Float[DeviceArray, "*#B P"]) -> Float[jax.Array, "*#B"]:
    """Returns the binary cross-entropy, averaged over points."""
    return jnp.mean(jax.nn.softplus(logits) - logits * targets, axis=-1)


def mask_dice(logits: Float[DeviceArray, "*#B P"], targets: Float[DeviceArray, "*#B P"]) -> Float[jax.Array, "*#B"]:
    """Returns 1 - dice, with 1 added to numerator and denominator."""
    probabilities = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probabilities * targets, axis=-1)
    return 1 - (2 * overlap + 1) / (jnp.sum(probabilities, axis=-1) + jnp.sum(targets, axis=-1) + 1)


def bce_cost(logits: Float[DeviceArray, "B Q P"], targets: Float[DeviceArray, "B N P"]) -> Float[jax.Array, "B Q N"]:
    """Returns mask_bce of every query with every target."""
    dot = jnp.einsum("bqp,bnp->bqn", logits, targets, precision="highest")
    return (jnp.sum(jax.nn.softplus(logits), axis=-1)[..., None] - dot) / logits.shape[-1]


def dice_cost(logits: Float[DeviceArray, "B Q P"], targets: Float[DeviceArray, "B N P"]) -> Float[jax.Array, "B Q N"]:
    """Returns mask_dice of every query with every target."""
    probabilities = jax.nn.sigmoid(logits)
    overlap = jnp.einsum("bqp,bnp->bqn", probabilities, targets, precision="highest")
    return 1 - (2 * overlap + 1) / (jnp.sum(probabilities, axis=-1)[..., None] + jnp.sum(targets, axis=-1)[:, None] + 1)


def class_cost(
    logits: Float[DeviceArray, "B Q C"], labels: Int[DeviceArray, "B N"], class_valid: Bool[DeviceArray, "B C"] | None
) -> Float[jax.Array, "B Q N"]:
    """Returns minus the probability of each target's class."""
    if class_valid is not None:
        logits = jnp.where(class_valid[:, None], logits, MASKED)
    probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(probability, jnp.clip(labels, 0, logits.shape[-1] - 1)[:, None], axis=-1)
