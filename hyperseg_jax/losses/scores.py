"""Losses of query scores: match with an expression, classification, and match with regions."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from hyperseg_jax.losses.masks import MASKED, class_cost
from hyperseg_jax.losses.targets import ScoreTargets
from hyperseg_jax.structs import DeviceArray

Scores = Float[DeviceArray, "B Q *C"]
"""One score for each query, or one for each of C classes or regions."""

Matched = Bool[DeviceArray, "B N Q"]


@runtime_checkable
class ScoreLoss(Protocol):
    """The loss of one kind of scores. Systems may define other kinds."""

    @property
    def weight(self) -> float:
        """The weight of the loss in the total."""

    def count(self, targets: ScoreTargets, queries: int) -> Any:
        """Returns the divisors of the loss, float32 scalars that sum over batches. queries: number of queries per row, Q."""

    def cost(self, logits: Scores, targets: ScoreTargets) -> Float[jax.Array, "B Q N"] | float:
        """Returns the weighted contribution to the matching cost; 0 if there is none."""

    def loss(self, logits: Scores, matched: Matched, targets: ScoreTargets, counts: Any) -> Float[jax.Array, ""]:
        """Returns the unweighted loss. matched: True if target n is matched to query q."""


def weighted_bce(
    logits: Float[DeviceArray, "*B"], targets: Bool[DeviceArray, "*B"], positive_weight: Float[DeviceArray, ""] | float
) -> Float32[jax.Array, "*B"]:
    """Returns torch.nn.functional.binary_cross_entropy_with_logits(pos_weight=...) without reduction."""
    logits = logits.astype(jnp.float32)
    return jnp.where(targets, positive_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))


@flax.struct.dataclass
class BalancedCounts:
    """Counts of BalancedScores: scalars, or one for each part of a batch. targets: valid targets of supervised rows. scores:
    queries of these rows times their valid columns."""

    targets: Float32[jax.Array, "*parts"]
    scores: Float32[jax.Array, "*parts"]


@dataclasses.dataclass(frozen=True)
class BalancedScores:
    """Binary cross-entropy, averaged over all supervised scores: one per query, or one per query and valid column.

    With N targets and n scores in total, the positive weight is (n - N) / N, N at least 1; as in the reference, it is negative
    if there are more targets than scores.
    """

    weight: float = 2.0

    def count(self, targets: ScoreTargets, queries: int) -> BalancedCounts:
        valid, supervised = targets.valid.sum(-1).astype(jnp.float32), targets.supervised.astype(jnp.float32)
        columns = jnp.float32(1) if targets.columns is None else targets.columns.sum(-1).astype(jnp.float32)
        return BalancedCounts(targets=(valid * supervised).sum(), scores=queries * (columns * supervised).sum())

    def cost(self, logits: Scores, targets: ScoreTargets) -> float:
        return 0.0

    def loss(self, logits: Scores, matched: Matched, targets: ScoreTargets, counts: BalancedCounts) -> Float[jax.Array, ""]:
        is_target, included = matched, targets.supervised[:, None]
        if targets.columns is not None:
            is_target = matched[..., None] & (targets.labels[..., None] == jnp.arange(logits.shape[-1]))[:, :, None]
            included = (included & targets.columns)[:, None]  # [B, 1, C]
        positives = jnp.maximum(counts.targets, 1.0)
        losses = weighted_bce(logits, is_target.any(1), (counts.scores - positives) / positives)
        return jnp.sum(jnp.where(included, losses, 0.0)) / jnp.maximum(counts.scores, 1.0)


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Cross-entropy over the valid classes; the target of unmatched queries is the last valid class.

    A weighted mean (as in PyTorch) with weight `background` for unmatched queries and 1 for the others; the divisor is the sum
    of the weights. matching: weight of the class probability in the matching cost.
    """

    weight: float = 2.0
    background: float = 0.1
    matching: float = 2.0

    def count(self, targets: ScoreTargets, queries: int) -> Float32[jax.Array, ""]:
        supervised = targets.supervised.astype(jnp.float32)
        matched = jnp.minimum(targets.valid.sum(-1).astype(jnp.float32), queries)
        return (supervised * (matched + self.background * (queries - matched))).sum()

    def cost(self, logits: Float[DeviceArray, "B Q C"], targets: ScoreTargets) -> Float[jax.Array, "B Q N"]:
        by_class = class_cost(logits, targets.labels, targets.columns)
        return self.matching * jnp.where(targets.supervised[:, None, None], by_class, 0.0)

    def loss(
        self,
        logits: Float[DeviceArray, "B Q C"],
        matched: Matched,
        targets: ScoreTargets,
        counts: Float32[DeviceArray, ""],
    ) -> Float[jax.Array, ""]:
        classes = logits.shape[-1]
        valid = jnp.ones((logits.shape[0], classes), bool) if targets.columns is None else targets.columns
        background = classes - 1 - jnp.argmax(valid[:, ::-1], axis=-1)  # [B]
        is_matched = matched.any(1)  # [B, Q]
        label = jnp.sum(jnp.where(matched, targets.labels[..., None], 0), axis=1)
        label = jnp.where(is_matched, label, background[:, None])
        logits = jnp.where(valid[:, None], logits.astype(jnp.float32), MASKED)
        picked = jnp.take_along_axis(logits, jnp.clip(label, 0, classes - 1)[..., None], axis=-1)[..., 0]
        losses = jnp.where(is_matched, 1.0, self.background) * (jax.nn.logsumexp(logits, axis=-1) - picked)
        return jnp.sum(jnp.where(targets.supervised[:, None], losses, 0.0)) / jnp.maximum(counts, 1e-6)
