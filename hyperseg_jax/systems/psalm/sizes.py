"""What the processors of these systems have in common: their sizes, and the padding of an element."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import TargetArrays
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, fit_to_square
from hyperseg_jax.structs import IGNORED, Source


class SizedProcessor(abc.ABC):
    """Base class of processors, which are frozen dataclasses with these fields.

    COUNTS: the fields with sizes of an element, of which a common shape has the maximum.
    """

    COUNTS: ClassVar[tuple[str, ...]]
    image_size: int
    length: int
    prompts: int
    targets: int
    planes: int
    masks: int

    @abc.abstractmethod
    def spec(self, batch_size: int) -> Batch:
        """See data.processor.Processor."""

    def for_bucket(self, shape: Shape) -> Self:
        return dataclasses.replace(self, **shape)  # type: ignore[type-var]

    def with_common_shape(self, others: Iterable[Any]) -> Self:
        processors = [self, *others]
        largest = {name: max(getattr(processor, name) for processor in processors) for name in self.COUNTS}
        planes = max(processor.target_arrays.num_planes for processor in processors)
        return dataclasses.replace(self, **largest, planes=planes)  # type: ignore[type-var]

    def blank(self) -> Batch:
        element = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        element["layout"]["labels"][:] = IGNORED
        return {**element, "bad": np.asarray(True)}

    def geometry(self, height: int, width: int) -> Geometry:
        return fit_to_square(height, width, self.image_size)

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        layout = element["layout"]
        prompts = int(layout["prompt"].max())
        valid_pixels = self.masks * int(np.prod(element["filled"])) * int(element["frame_valid"].sum())
        return {
            "positions": (int((layout["source"] != Source.PADDING).sum()), self.length),
            "prompts": (prompts, self.prompts),
            "targets": (int(element["valid"].sum()), prompts * self.targets),
            "pixels": (valid_pixels, self.mask_frames * self.mask_side**2),
        }

    @property
    def mask_frames(self) -> int:
        """The number of frames of an element that masks are predicted for."""
        return 1

    @property
    def mask_side(self) -> int:
        """The side of the padded square for the mask branch; 0 if the task has no masks."""
        return self.image_size if self.masks else 0

    @property
    def target_arrays(self) -> TargetArrays:
        """The arrays of the targets of a prompt."""
        return TargetArrays(self.targets, self.planes, self.mask_frames, self.mask_side)


def check_text_only(sizes: Mapping[str, int], frames: str, smallest: int) -> Mapping[str, int]:
    """Returns the sizes of a task, without targets if it has no masks. Raises UserError if a task without masks has targets, or
    more than `smallest` in its field `frames`."""
    if sizes.get("masks", 1):
        return sizes
    if sizes.get(frames, smallest) > smallest or sizes.get("targets", 0):
        raise UserError(f"masks = 0 is for single images without targets; remove {frames} and targets, or masks")
    return {**sizes, "targets": 0}
