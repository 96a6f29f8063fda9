"""The loss of prompts that one query each must answer: which of the queries of an image it is (SEEM, Zou et al. 2023)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from hyperseg_jax.losses.scores import Matched
from hyperseg_jax.losses.targets import ScoreTargets
from hyperseg_jax.structs import DeviceArray


@dataclasses.dataclass(frozen=True)
class PromptScores:
    """Cross-entropy over queries, averaged over the prompts of a row, then over all rows with prompts.

    The scores are log-probabilities [B, Q, N]: column n says which query answers prompt n, the prompt of target n. They may be
    normalized over more queries than those of the row. Prompts of a row with equal labels say the same; the target of each is
    the mean over the queries that they are matched to.
    matching: weight of the probability, normalized over the queries of the row, in the matching cost.
    """

    weight: float
    matching: float = 2.0

    def count(self, targets: ScoreTargets, queries: int) -> Float32[jax.Array, ""]:
        return targets.valid.any(-1).astype(jnp.float32).sum()

    def cost(self, logits: Float[DeviceArray, "B Q N"], targets: ScoreTargets) -> Float[jax.Array, "B Q N"]:
        probability = jax.nn.softmax(logits.astype(jnp.float32), axis=1)
        return -self.matching * jnp.where(targets.supervised[:, None, None], probability, 0.0)

    def loss(
        self,
        logits: Float[DeviceArray, "B Q N"],
        matched: Matched,
        targets: ScoreTargets,
        counts: Float32[DeviceArray, ""],
    ) -> Float[jax.Array, ""]:
        valid = targets.valid
        same = (targets.labels[:, :, None] == targets.labels[:, None, :]) & valid[:, None, :]  # [B, N, N]
        share = same / jnp.maximum(same.sum(-1, keepdims=True), 1)
        answering = jnp.einsum("bnm,bmq->bnq", share, matched.astype(jnp.float32), precision="highest")
        of_prompt = -jnp.einsum("bnq,bqn->bn", answering, logits.astype(jnp.float32), precision="highest")
        of_row = jnp.where(valid, of_prompt, 0.0).sum(-1) / jnp.maximum(valid.sum(-1), 1)
        return jnp.where(targets.supervised, of_row, 0.0).sum() / jnp.maximum(counts, 1.0)
