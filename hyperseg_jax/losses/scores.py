"""Losses of the scores of queries: which query is meant (expression), what it is (class), which region it answers.

`matched` is bool [B, N, Q]: target n is taught to query q. The divisors come from TargetCounts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hyperseg_jax.losses.masks import MASKED
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts


def weighted_bce(logits: jax.Array, wanted: jax.Array, positive_weight: jax.Array) -> jax.Array:
    """torch.nn.functional.binary_cross_entropy_with_logits(pos_weight=...) without reduction."""
    logits = logits.astype(jnp.float32)
    return jnp.where(wanted, positive_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))


def expression_loss(logits: jax.Array, matched: jax.Array, targets: MaskTargets, counts: TargetCounts) -> jax.Array:
    """logits [B, Q]: mean over all queries of the rows that use the expression.

    With N targets and n queries in all, the positive weight is (n - N) / N, N at least 1; as in the reference it turns
    negative where there are more targets than queries.
    """
    return _balanced_bce(
        logits,
        matched.any(1),
        jnp.broadcast_to(targets.uses_expression[:, None], logits.shape),
        counts.expression_scores,
        counts.expression_targets,
    )


def region_loss(logits: jax.Array, matched: jax.Array, targets: MaskTargets, counts: TargetCounts) -> jax.Array:
    """logits [B, Q, R]: as expression_loss, over every pair of a query and a valid region."""
    wanted = matched[..., None] & (targets.labels[..., None] == jnp.arange(logits.shape[-1]))[:, :, None]  # [B, N, Q, R]
    counted = jnp.broadcast_to(targets.uses_regions[:, None, None], logits.shape)
    if targets.region_valid is not None:
        counted &= targets.region_valid[:, None]
    return _balanced_bce(logits, wanted.any(1), counted, counts.region_scores, counts.region_targets)


def _balanced_bce(
    logits: jax.Array, wanted: jax.Array, counted: jax.Array, scores: jax.Array, positives: jax.Array
) -> jax.Array:
    positives = jnp.maximum(positives, 1.0)
    each = weighted_bce(logits, wanted, (scores - positives) / positives)
    return jnp.sum(jnp.where(counted, each, 0.0)) / jnp.maximum(scores, 1.0)


def class_loss(
    logits: jax.Array, matched: jax.Array, targets: MaskTargets, counts: TargetCounts, background_weight: float
) -> jax.Array:
    """logits [B, Q, C]: cross-entropy over the valid classes; a query without a target belongs to the last valid class.

    Mean weighted by `background_weight` for queries without a target and 1 for the others (torch's weighted mean).
    """
    classes = logits.shape[-1]
    valid = jnp.ones((logits.shape[0], classes), bool) if targets.class_valid is None else targets.class_valid
    background = classes - 1 - jnp.argmax(valid[:, ::-1], axis=-1)  # [B]
    taken = matched.any(1)  # [B, Q]
    label = jnp.sum(jnp.where(matched, targets.labels[..., None], 0), axis=1)
    label = jnp.where(taken, label, background[:, None])
    logits = jnp.where(valid[:, None], logits.astype(jnp.float32), MASKED)
    picked = jnp.take_along_axis(logits, jnp.clip(label, 0, classes - 1)[..., None], axis=-1)[..., 0]
    each = jnp.where(taken, 1.0, background_weight) * (jax.nn.logsumexp(logits, axis=-1) - picked)
    return jnp.sum(jnp.where(targets.uses_classes[:, None], each, 0.0)) / jnp.maximum(counts.class_weight, 1e-6)
