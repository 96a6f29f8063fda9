"""The targets of masks and scores in a batch: padded arrays, and the counts that normalize the losses."""

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
    """The targets of one kind of scores.

    valid, labels: as in MaskTargets. supervised: rows with supervised scores. columns: validity of the C classes or regions
    that each query has scores for; False for padding. None: a query has one score, or all classes are valid.
    """

    valid: Bool[DeviceArray, "B N"]
    labels: Int[DeviceArray, "B N"]
    supervised: Bool[DeviceArray, " B"]
    columns: Bool[DeviceArray, "B C"] | None = None


@flax.struct.dataclass
class MaskTargets:
    """Padded targets of B rows (images, or images x prompts). A batch may mix kinds of rows.

    segments: uint8 or uint16 segment maps of any resolution, n + 1 at pixels of target n, else 0. Overlapping targets are in
        different planes (P). planes: the plane of each target. valid: False for padding targets.
    labels: the class or region of each target; used only in rows with classes or regions.
    supervised: rows with supervised scores, by kind ("expression", "class", "region"). Padding rows have no supervised scores
        and no valid targets.
    columns: by kind, for kinds that have columns (ScoreTargets). The last valid class is the background.
    """

    segments: UInt[DeviceArray, "B P H W"]
    planes: Int[DeviceArray, "B N"]
    valid: Bool[DeviceArray, "B N"]
    labels: Int[DeviceArray, "B N"]
    supervised: Mapping[str, Bool[DeviceArray, " B"]]
    columns: Mapping[str, Bool[DeviceArray, "B _"]] = flax.struct.field(default_factory=dict)

    def score_targets(self, kind: str) -> ScoreTargets:
        """Returns the targets of one kind of scores."""
        return ScoreTargets(self.valid, self.labels, self.supervised[kind], self.columns.get(kind))

    @property
    def masks(self) -> Bool[jax.Array, "B N H W"]:
        """The full masks of the targets."""
        plane = jnp.take_along_axis(self.segments, self.planes[..., None, None], axis=1)
        return plane == jnp.arange(1, self.planes.shape[1] + 1)[:, None, None]


@flax.struct.dataclass
class TargetCounts:
    """The divisors of the losses before clamping: scalars, or one for each part of a batch. targets: number of valid targets.
    scores: by kind, the counts of its loss.

    Counts of several batches can be added. With the sum, their losses sum to the loss of the concatenated batch.
    """

    targets: Float32[jax.Array, "*parts"]
    scores: Mapping[str, Any]
