"""What a batch asks of masks and scores: padded arrays, and the counts that normalise the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int, UInt

from hyperseg_jax.structs import DeviceArray


@flax.struct.dataclass
class ScoreTargets:
    """What is asked of the scores of one kind.

    valid, labels: as in MaskTargets. taught: the rows whose scores are taught. columns: where a query has a score for each of C
    classes or regions, False where one is padding. None: a query has one score; of classes, all are valid.
    """

    valid: Bool[DeviceArray, "B N"]
    labels: Int[DeviceArray, "B N"]
    taught: Bool[DeviceArray, " B"]
    columns: Bool[DeviceArray, "B C"] | None = None


@flax.struct.dataclass
class MaskTargets:
    """Padded targets of B rows (images, or images times prompts). One batch may mix kinds of rows.

    segments: uint8 or uint16, at any resolution: n + 1 where target n is, else 0. Targets that overlap lie in different planes
        (P). planes: the plane of each target. valid: False where a target is padding.
    labels: the class or the region of each target; read only in rows that use classes or regions.
    taught: by kind of scores ("expression", "class", "region") the rows whose scores are taught. A row of padding is taught
        none and has no valid target.
    columns: by kind, where a kind has them (ScoreTargets). The last valid class is the background.
    """

    segments: UInt[DeviceArray, "B P H W"]
    planes: Int[DeviceArray, "B N"]
    valid: Bool[DeviceArray, "B N"]
    labels: Int[DeviceArray, "B N"]
    taught: Mapping[str, Bool[DeviceArray, " B"]]
    columns: Mapping[str, Bool[DeviceArray, "B _"]] = flax.struct.field(default_factory=dict)

    def of(self, kind: str) -> ScoreTargets:
        """What is asked of the scores of that kind."""
        return ScoreTargets(self.valid, self.labels, self.taught[kind], self.columns.get(kind))

    @property
    def masks(self) -> Bool[jax.Array, "B N H W"]:
        """Those of the targets, whole."""
        own = jnp.take_along_axis(self.segments, self.planes[..., None, None], axis=1)
        return own == jnp.arange(1, self.planes.shape[1] + 1)[:, None, None]


@flax.struct.dataclass
class TargetCounts:
    """The divisors of the losses, before they are clamped, scalars or one of each part of a batch. targets: valid targets.
    scores: by kind, what its loss counts.

    Those of several batches add up. With the sum, the losses of the batches add up to the loss of one batch that holds all.
    """

    targets: Float32[jax.Array, "*parts"]
    scores: Mapping[str, Any]
