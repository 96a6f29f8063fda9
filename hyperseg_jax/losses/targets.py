"""What a batch asks of masks and scores: padded arrays, and the counts that normalise the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class ScoreTargets:
    """What is asked of the scores of one kind.

    valid, labels: [B, N], as in MaskTargets. taught: bool [B], the rows whose scores are taught. columns: bool [B, C], where a
    query has a score for each of C classes or regions, False where one is padding. None: a query has one score; of classes, all
    are valid.
    """

    valid: jax.Array
    labels: jax.Array
    taught: jax.Array
    columns: jax.Array | None = None


@flax.struct.dataclass
class MaskTargets:
    """Padded targets of B rows (pictures, or pictures times prompts). One batch may mix kinds of rows.

    segments: [B, P, H, W] uint8 or uint16, at any resolution: n + 1 where target n is, else 0. Targets that overlap lie in
        different planes. planes: [B, N] int32, the plane of each target. valid: [B, N] bool, False where a target is padding.
    labels: [B, N] int32, the class or the region of each target; read only in rows that use classes or regions.
    taught: by kind of scores ("expression", "class", "region") bool [B], the rows whose scores are taught. A row of padding is
        taught none and has no valid target.
    columns: by kind bool [B, C], where a kind has them (ScoreTargets). The last valid class is the background.
    """

    segments: jax.Array
    planes: jax.Array
    valid: jax.Array
    labels: jax.Array
    taught: Mapping[str, jax.Array]
    columns: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)

    def of(self, kind: str) -> ScoreTargets:
        """What is asked of the scores of that kind."""
        return ScoreTargets(self.valid, self.labels, self.taught[kind], self.columns.get(kind))

    @property
    def masks(self) -> jax.Array:
        """bool [B, N, H, W]."""
        own = jnp.take_along_axis(self.segments, self.planes[..., None, None], axis=1)
        return own == jnp.arange(1, self.planes.shape[1] + 1)[:, None, None]


@flax.struct.dataclass
class TargetCounts:
    """The divisors of the losses, float32 scalars, before they are clamped. targets: valid targets. scores: by kind, what its
    loss counts.

    Those of several batches add up. With the sum, the losses of the batches add up to the loss of one batch that holds all.
    """

    targets: jax.Array
    scores: Mapping[str, Any]
