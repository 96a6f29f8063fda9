"""Losses of the scores of queries: which query is meant (expression), what it is (class), which region it answers."""

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
"""One for each query, or one with each of C classes or regions."""

Matched = Bool[DeviceArray, "B N Q"]


@runtime_checkable
class ScoreLoss(Protocol):
    """How the scores of one kind are taught. A value; a system may bring its own."""

    @property
    def weight(self) -> float:
        """Of the loss in the objective."""

    def count(self, targets: ScoreTargets, queries: int) -> Any:
        """The divisors of the loss, float32 scalars; those of several batches add up. queries: of a row, Q."""

    def cost(self, logits: Scores, targets: ScoreTargets) -> Float[jax.Array, "B Q N"] | float:
        """What the scores add to the matching cost, weighted; 0 where they do not count."""

    def loss(self, logits: Scores, matched: Matched, targets: ScoreTargets, counts: Any) -> Float[jax.Array, ""]:
        """Unweighted. matched: target n is taught to query q."""


def weighted_bce(
    logits: Float[DeviceArray, "*B"], wanted: Bool[DeviceArray, "*B"], positive_weight: Float[DeviceArray, ""] | float
) -> Float32[jax.Array, "*B"]:
    """torch.nn.functional.binary_cross_entropy_with_logits(pos_weight=...) without reduction."""
    logits = logits.astype(jnp.float32)
    return jnp.where(wanted, positive_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))


@flax.struct.dataclass
class BalancedCounts:
    """targets: valid targets of the rows that are taught. scores: the queries of these rows, times their valid columns.
    Scalars, or one of each part of a batch."""

    targets: Float32[jax.Array, "*parts"]
    scores: Float32[jax.Array, "*parts"]


@dataclasses.dataclass(frozen=True)
class BalancedScores:
    """Binary cross-entropy, mean over all scores that are taught: of each query, or of each query with each valid column.

    With N targets and n scores in all, the positive weight is (n - N) / N, N at least 1; as in the reference it turns
    negative where there are more targets than scores.
    """

    weight: float = 2.0

    def count(self, targets: ScoreTargets, queries: int) -> BalancedCounts:
        valid, taught = targets.valid.sum(-1).astype(jnp.float32), targets.taught.astype(jnp.float32)
        columns = jnp.float32(1) if targets.columns is None else targets.columns.sum(-1).astype(jnp.float32)
        return BalancedCounts(targets=(valid * taught).sum(), scores=queries * (columns * taught).sum())

    def cost(self, logits: Scores, targets: ScoreTargets) -> float:
        return 0.0

    def loss(self, logits: Scores, matched: Matched, targets: ScoreTargets, counts: BalancedCounts) -> Float[jax.Array, ""]:
        wanted, counted = matched, targets.taught[:, None]
        if targets.columns is not None:
            wanted = matched[..., None] & (targets.labels[..., None] == jnp.arange(logits.shape[-1]))[:, :, None]
            counted = (counted & targets.columns)[:, None]  # [B, 1, C]
        positives = jnp.maximum(counts.targets, 1.0)
        each = weighted_bce(logits, wanted.any(1), (counts.scores - positives) / positives)
        return jnp.sum(jnp.where(counted, each, 0.0)) / jnp.maximum(counts.scores, 1.0)


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Cross-entropy over the valid classes; a query without a target belongs to the last valid class.

    Mean weighted by `background` for queries without a target and 1 for the others (torch's weighted mean); its divisor is the
    sum of these weights. matching: weight of a target's class probability in the matching cost.
    """

    weight: float = 2.0
    background: float = 0.1
    matching: float = 2.0

    def count(self, targets: ScoreTargets, queries: int) -> Float32[jax.Array, ""]:
        taught = targets.taught.astype(jnp.float32)
        matched = jnp.minimum(targets.valid.sum(-1).astype(jnp.float32), queries)
        return (taught * (matched + self.background * (queries - matched))).sum()

    def cost(self, logits: Float[DeviceArray, "B Q C"], targets: ScoreTargets) -> Float[jax.Array, "B Q N"]:
        by_class = class_cost(logits, targets.labels, targets.columns)
        return self.matching * jnp.where(targets.taught[:, None, None], by_class, 0.0)

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
        taken = matched.any(1)  # [B, Q]
        label = jnp.sum(jnp.where(matched, targets.labels[..., None], 0), axis=1)
        label = jnp.where(taken, label, background[:, None])
        logits = jnp.where(valid[:, None], logits.astype(jnp.float32), MASKED)
        picked = jnp.take_along_axis(logits, jnp.clip(label, 0, classes - 1)[..., None], axis=-1)[..., 0]
        each = jnp.where(taken, 1.0, self.background) * (jax.nn.logsumexp(logits, axis=-1) - picked)
        return jnp.sum(jnp.where(targets.taught[:, None], each, 0.0)) / jnp.maximum(counts, 1e-6)
