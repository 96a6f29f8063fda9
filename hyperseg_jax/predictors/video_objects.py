"""Objects whose masks are given on a frame of a video, segmented on all later frames (semi-supervised video segmentation)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from hyperseg_jax.datasets.video_folders import VOID
from hyperseg_jax.errors import UserError
from hyperseg_jax.results.objects import merge_soft
from hyperseg_jax.structs import Example, Prediction, Prompt, Region

Answer = Callable[[Example, Any], tuple[Prediction, Any]]
"""f(example, memory) -> probabilities of the objects [N, H, W], and the memory for the next frame."""
ObjectIds = Shaped[np.ndarray, "H W"]
"""The object id of each pixel, from 1; 0 is background, and VOID is no object."""


@dataclasses.dataclass
class _Group:
    """Objects given on the same frame: the regions of one prompt, so they share the passes of the model and its memory."""

    prompt: Prompt
    drawn_on: UInt8[np.ndarray, "H W 3"]
    memory: Any = None

    def segment(self, frame: UInt8[np.ndarray, "H W 3"], answer: Answer) -> np.ndarray:
        """Returns the probabilities of the objects on the next frame, [N, H, W]."""
        example = Example("the video", frame[None], (self.prompt,), drawn_on=self.drawn_on)
        found, self.memory = answer(example, self.memory)
        return found.masks


def segment_objects(
    frames: Iterable[np.ndarray], masks: ObjectIds | Mapping[int, ObjectIds], answer: Answer
) -> Iterator[tuple[np.ndarray, Prediction]]:
    """Yields (frame, prediction) for each frame: one mask for each object so far, named by its id, in ascending order of the
    frames on which they are given. See Model.segment_objects."""
    given = masks if isinstance(masks, Mapping) else {0: masks}
    if not any(object_numbers(ids) for ids in given.values()):
        raise UserError("the masks show no object; give each object a number from 1 to 254")
    return _segment(frames, given, answer)


def _segment(
    frames: Iterable[np.ndarray], given: Mapping[int, ObjectIds], answer: Answer
) -> Iterator[tuple[np.ndarray, Prediction]]:
    groups: list[_Group] = []
    numbers: tuple[int, ...] = ()
    count = 0
    for count, frame in enumerate(frames, 1):
        ids = given.get(count - 1)
        regions: dict[int, Region] = {}
        if ids is not None:
            if ids.shape != frame.shape[:2]:
                raise UserError(
                    f"the masks of frame {count - 1} have size {ids.shape}, the frame {frame.shape[:2]}; resize them"
                )
            regions = {n: Region.from_mask(ids == n) for n in object_numbers(ids) if n not in numbers}
        if regions:
            groups.append(_Group(Prompt("region", regions=tuple(regions.values())), frame))
            numbers += tuple(regions)
        size = frame.shape[:2]
        owner = np.zeros(size, int)
        if groups:
            owner = merge_soft(np.concatenate([group.segment(frame, answer) for group in groups]))
        first_new = len(numbers) - len(regions) + 1
        owner[owner >= first_new] = 0  # on their own frame, the given masks are the prediction
        for k, region in enumerate(regions.values(), first_new):
            owner[region.mask] = k
        found = owner == np.arange(1, len(numbers) + 1)[:, None, None]
        yield frame, Prediction(found, names=tuple(map(str, numbers)))
    if late := [number for number in given if number >= count]:
        raise UserError(f"masks are given for frame {min(late)}, but the video has {count} frames; number them from 0")


def object_numbers(ids: ObjectIds) -> tuple[int, ...]:
    """Returns the ids of the objects in a mask, ascending."""
    return tuple(int(number) for number in np.unique(ids) if number not in (0, VOID))
