"""The target masks of a prompt as segment maps of a fixed size, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.segment_maps import number_masks
from hyperseg_jax.ops.transforms import Geometry, resize_and_pad_map
from hyperseg_jax.structs import Prompt


def check_count(field: str, count: int, limit: int, what: str = "") -> None:
    """Raises UserError if a prompt has more of a field than its task allows. what: what is counted; `field` by default."""
    if count > limit:
        raise UserError(f"{count} {what or field}, but the task allows {limit}; increase {field} in its config")


@dataclasses.dataclass(frozen=True)
class TargetArrays:
    """Sizes of the arrays: number of targets, segment maps (0: one per target) and frames, and side of the square (0: none)."""

    targets: int
    planes: int
    frames: int
    side: int

    @property
    def num_planes(self) -> int:
        """The number of segment maps per prompt."""
        return min(self.planes or self.targets, self.targets)

    @property
    def map_type(self) -> type[np.unsignedinteger[Any]]:
        """The dtype of segment maps, which holds the number of each target."""
        return np.uint8 if self.targets <= np.iinfo(np.uint8).max else np.uint16

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        """The shape of the segment maps of a prompt, [P, T, S, S]."""
        return self.num_planes, self.frames, self.side, self.side

    def make(self, prompt: Prompt, geometry: Geometry, train: bool) -> tuple[dict[str, np.ndarray], list[int]]:
        """Returns segments [P, T, S, S] (n + 1 where target n is), planes int32 [N] (the plane of each target), valid bool [N],
        labels int32 [N]; and in training the targets without pixels at this size, which are neither present nor absent and so
        not valid. Only in a clip (task "video") may an object be absent: its empty mask is a target. Raises UserError if the
        targets do not fit."""
        masks: Sequence[np.ndarray] = () if prompt.masks is None else list(prompt.masks[:, : self.frames])
        check_count("targets", len(masks), self.targets)
        maps, plane_of = number_masks(masks, self.map_type)
        if len(maps) > self.num_planes:
            raise UserError(
                f"its targets overlap and need {len(maps)} planes, but the task allows {self.num_planes}; "
                "increase planes in its config, or omit it for one plane per target"
            )
        segments = np.zeros(self.map_shape, self.map_type)
        for plane, numbers in enumerate(maps):
            segments[plane, : len(numbers)] = resize_and_pad_map(numbers, geometry)
        planes, labels = np.zeros(self.targets, np.int32), np.zeros(self.targets, np.int32)
        planes[: len(masks)] = plane_of
        labels[: len(prompt.labels)] = prompt.labels
        valid = np.arange(self.targets) < len(masks)
        may_be_empty = prompt.task == "video"
        missing = [n for n in range(len(masks)) if train and n + 1 not in segments[planes[n]]]
        vanished = [n for n in missing if masks[n].any() or not may_be_empty]
        valid[vanished] = False
        return {"segments": segments, "planes": planes, "valid": valid, "labels": labels}, vanished
