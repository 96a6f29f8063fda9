"""The loss of mask prediction: matching, then mask and score losses at every decoder output (deep supervision)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.layers.remat import remat_scan_body, save_activation
from hyperseg_jax.losses.masks import bce_cost, dice_cost, mask_bce, mask_dice
from hyperseg_jax.losses.points import (
    PointDraws,
    SegmentPatches,
    draw_points,
    pack_segments,
    sample_cells,
    sample_segments,
)
from hyperseg_jax.losses.scores import ScoreLoss
from hyperseg_jax.losses.stage_masks import StageMasks, select_uncertain_points, stack_stages
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts
from hyperseg_jax.ops.matching import hungarian
from hyperseg_jax.structs import DeviceArray, MaskPrediction


@flax.struct.dataclass
class MaskLosses:
    """The losses of a batch. total: the weighted sum. terms: unweighted losses by kind ("mask", "dice", and score kinds), one
    for each decoder stage, the final prediction last. query_of_target: -1 if unmatched."""

    total: Float[jax.Array, ""]
    terms: dict[str, Float[jax.Array, " stages"]]
    query_of_target: Int32[jax.Array, "stages B N"]


def match_targets(cost: Float[DeviceArray, "stages B Q N"], valid: Bool[DeviceArray, "B N"]) -> Int32[jax.Array, "stages B N"]:
    """Returns the query of each target.

    All assignment problems of a device run in one loop inside shard_map; partitioned by the compiler, every loop iteration
    would synchronize all devices.
    """
    solve = jax.vmap(jax.vmap(hungarian), in_axes=(0, None))
    problems, rows = (None, "batch", None, None), ("batch", None)
    with jax.named_scope("matching"):
        return axes.map_shards(solve, problems, rows, out=(None, "batch", None))(cost, valid)


@dataclasses.dataclass(frozen=True)
class MaskCriterion:
    """The mask criterion with its weights and point sampling; the defaults are those of InstructSeg and PSALM.

    scores: the loss of each kind of scores; kinds that a prediction lacks are skipped.
    points: "per_mask" samples separate points for each matched mask (as in the references); "shared" shares them among the
    masks of a row, several times faster; "grid" uses the cell centers of the mask logits instead of random points, for small
    maps.
    """

    scores: Mapping[str, ScoreLoss]
    num_points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    points: str = "per_mask"
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    match_mask_weight: float = 5.0
    match_dice_weight: float = 5.0

    def __post_init__(self) -> None:
        if self.points not in ("per_mask", "shared", "grid"):
            raise ValueError(f"points = {self.points!r}: use per_mask, shared or grid")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss in the total."""
        return {
            "mask": self.mask_weight,
            "dice": self.dice_weight,
            **{kind: score_loss.weight for kind, score_loss in self.scores.items()},
        }

    def count(self, targets: MaskTargets, queries: int) -> TargetCounts:
        """Returns the divisors of the losses of a batch. queries: number of queries per row, Q."""
        scores = {kind: score_loss.count(targets.score_targets(kind), queries) for kind, score_loss in self.scores.items()}
        return TargetCounts(targets.valid.sum(-1).astype(jnp.float32).sum(), scores)

    def __call__(
        self,
        prediction: MaskPrediction,
        targets: MaskTargets,
        *,
        key: PRNGKeyArray | None = None,
        draws: PointDraws | None = None,
        counts: TargetCounts | None = None,
    ) -> MaskLosses:
        """Returns the float32 losses of one batch.

        key: for the random points. draws: precomputed points instead of a key. Both are ignored if points is "grid".
        counts: the divisors, if the batch is a part of a larger one; those of this batch by default.
        """
        kinds = [kind for kind in self.scores if kind in prediction.scores]
        values, features = stack_stages(prediction)
        outputs = [*(stage["scores"] for stage in prediction.stages), prediction.scores]
        scores = {kind: jnp.stack([each[kind] for each in outputs]) for kind in kinds}
        if draws is None and self.points != "grid":
            if key is None:
                raise ValueError("MaskCriterion needs a key for its random points (or draws, or points='grid')")
            rows, num_targets = targets.valid.shape
            sets = 1 if self.points == "shared" else num_targets
            draws = draw_points(key, len(outputs), rows, sets, self.num_points, self.oversample, self.importance)
        if counts is None:
            counts = self.count(targets, values.shape[2])

        patches = None if draws is None else pack_segments(targets.segments)

        # Stages run sequentially: the body is compiled once, and memory is needed for one stage only. The backward pass
        # recomputes a stage from its inputs and its points.
        def stage_cost(inputs: Any) -> jax.Array:
            values, scores, draws = inputs
            return self.cost(StageMasks(values, features), scores, targets, draws, patches)

        def stage_losses(inputs: Any) -> dict[str, jax.Array]:
            values, scores, query_of_target, draws = inputs
            return self.stage_losses(StageMasks(values, features), scores, targets, query_of_target, draws, patches, counts)

        costs = jax.lax.stop_gradient(jax.lax.map(stage_cost, (values, scores, draws)))
        query_of_target = match_targets(costs, targets.valid)
        terms = jax.lax.map(remat_scan_body(stage_losses), (values, scores, query_of_target, draws))
        total = sum((self.weights[kind] * values.sum() for kind, values in terms.items()), jnp.zeros(()))
        return MaskLosses(total, terms, query_of_target)

    def cost(
        self,
        masks: StageMasks,
        scores: Mapping[str, Float[DeviceArray, "B Q *C"]],
        targets: MaskTargets,
        draws: PointDraws | None,
        patches: SegmentPatches | None,
    ) -> Float[jax.Array, "B Q N"]:
        """Returns the matching cost of every query with every target in one decoder stage. draws, patches: None if points is
        "grid"; else patches are the packed segments of the targets."""
        if draws is None or patches is None:
            predicted, target_values = self._sample_grid(masks, targets)
        else:
            points = draws.matching[:, None]
            predicted, target_values = masks.sample(points), sample_segments(patches, targets.planes, points)
        cost = self.match_mask_weight * bce_cost(predicted, target_values)
        cost += self.match_dice_weight * dice_cost(predicted, target_values)
        for kind, values in scores.items():
            cost += self.scores[kind].cost(values, targets.score_targets(kind))
        return cost

    def stage_losses(
        self,
        masks: StageMasks,
        scores: Mapping[str, Float[DeviceArray, "B Q *C"]],
        targets: MaskTargets,
        query_of_target: Int[DeviceArray, "B N"],
        draws: PointDraws | None,
        patches: SegmentPatches | None,
        counts: TargetCounts,
    ) -> dict[str, Float[jax.Array, ""]]:
        """Returns the unweighted losses of one stage, given its matching."""
        is_matched = query_of_target >= 0
        chosen = masks.select(jnp.maximum(query_of_target, 0))
        if draws is None or patches is None:
            predicted, target_values = self._sample_grid(chosen, targets)
        else:
            points = save_activation(
                select_uncertain_points(chosen, is_matched, draws.candidates, draws.unselected, self.num_points)
            )
            predicted, target_values = chosen.sample(points), sample_segments(patches, targets.planes, points)
        divisor = jnp.maximum(counts.targets, 1.0)
        losses = {
            "mask": jnp.sum(jnp.where(is_matched, mask_bce(predicted, target_values), 0.0)) / divisor,
            "dice": jnp.sum(jnp.where(is_matched, mask_dice(predicted, target_values), 0.0)) / divisor,
        }
        matched = query_of_target[..., None] == jnp.arange(masks.values.shape[1])  # [B, N, Q]
        for kind, values in scores.items():
            losses[kind] = self.scores[kind].loss(values, matched, targets.score_targets(kind), counts.scores[kind])
        return losses

    @staticmethod
    def _sample_grid(masks: StageMasks, targets: MaskTargets) -> tuple[jax.Array, jax.Array]:
        """Returns logits and targets at the cell centers of the logits."""
        logits = masks.logits()
        size = logits.shape[2], logits.shape[3]
        return sample_cells(logits, size), sample_cells(targets.masks, size)
