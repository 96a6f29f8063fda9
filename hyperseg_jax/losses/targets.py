"""What a batch asks of the masks: padded arrays, and the counts that normalise the losses."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class MaskTargets:
    """Padded targets of B rows (pictures, or pictures times prompts). One batch may mix kinds of rows.

    segments: [B, P, H, W] uint8 or uint16, at any resolution: n + 1 where target n is, else 0. Targets that overlap lie in
        different planes. planes: [B, N] int32, the plane of each target. valid: [B, N] bool, False where a target is padding.
    labels: [B, N] int32, the class or the region of each target; read only in rows that use classes or regions.
    uses_expression, uses_classes, uses_regions: [B] bool, which scores of a row are taught. A row of padding uses none
        and has no valid target.
    class_valid: [B, C] bool, False where a class is padding; the last valid class is the background. None: all valid.
    region_valid: [B, R] bool, likewise.
    """

    segments: jax.Array
    planes: jax.Array
    valid: jax.Array
    labels: jax.Array
    uses_expression: jax.Array
    uses_classes: jax.Array
    uses_regions: jax.Array
    class_valid: jax.Array | None = None
    region_valid: jax.Array | None = None

    @property
    def masks(self) -> jax.Array:
        """bool [B, N, H, W]."""
        own = jnp.take_along_axis(self.segments, self.planes[..., None, None], axis=1)
        return own == jnp.arange(1, self.planes.shape[1] + 1)[:, None, None]


@flax.struct.dataclass
class TargetCounts:
    """The divisors of the losses, float32 scalars, before they are clamped.

    A step that computes the loss on a shard of the batch passes their mean over the shards, and takes the mean of its
    losses: the result is then the loss of the whole batch.
    """

    targets: jax.Array  # valid targets
    expression_targets: jax.Array  # valid targets of rows that use the expression
    expression_scores: jax.Array  # queries of those rows
    region_targets: jax.Array
    region_scores: jax.Array  # queries times valid regions
    class_weight: jax.Array  # summed weights of the class cross-entropy


def count_targets(targets: MaskTargets, queries: int, regions: int = 0, background_weight: float = 0.1) -> TargetCounts:
    """Counts over a batch. queries: Q. regions: R, used where region_valid is None."""
    valid = targets.valid.sum(-1).astype(jnp.float32)  # [B]
    expression, classes, region = (
        flag.astype(jnp.float32) for flag in (targets.uses_expression, targets.uses_classes, targets.uses_regions)
    )
    columns = jnp.float32(regions) if targets.region_valid is None else targets.region_valid.sum(-1).astype(jnp.float32)
    matched = jnp.minimum(valid, queries)
    return TargetCounts(
        targets=valid.sum(),
        expression_targets=(valid * expression).sum(),
        expression_scores=queries * expression.sum(),
        region_targets=(valid * region).sum(),
        region_scores=queries * (columns * region).sum(),
        class_weight=(classes * (matched + background_weight * (queries - matched))).sum(),
    )
