"""Interactive segmentation with a simulated user, who clicks where the prediction is wrong."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn, T
from hyperseg_jax.evaluation.start_shapes import START_SHAPES, centre
from hyperseg_jax.metrics.ciou_giou import count_overlap
from hyperseg_jax.metrics.clicks import LIMIT, THRESHOLDS
from hyperseg_jax.ops.simulated_clicks import GOOD_ENOUGH
from hyperseg_jax.structs import Example, Prediction, Prompt, Region


class ClickedObject:
    """An object, its marks and its predictions so far.

    target, ignore: bool [H, W]. start: its first prompt; None for an object without pixels that count. clicks: x, y and sign of
    each click since. marked: the pixels marked so far, where no further click is made. mask: the newest prediction. ious: the
    IoU after each prompt.
    """

    def __init__(self, target: np.ndarray, ignore: np.ndarray, start: Region | None) -> None:
        self.target, self.ignore, self.start = target, ignore, start
        self.clicks: list[tuple[float, float, float]] = []
        self.marked, self.mask = np.zeros_like(target), np.zeros_like(target)
        self.ious: list[float] = []

    def region(self, more: Sequence[tuple[float, float, float]] = ()) -> Region:
        """Returns all marks as a region, an empty mask if there are none. more: further clicks."""
        if self.start is None:
            return Region.from_mask(np.zeros_like(self.target), "point")
        clicks = np.array([*self.clicks, *more]).reshape(-1, 3)
        return dataclasses.replace(self.start, points=np.concatenate([self.start.points, clicks]))

    def click(self, wrong: np.ndarray, *, positive: bool) -> None:
        """Clicks in the middle of a wrong part of the prediction, bool [H, W], if it is not empty."""
        if self.start is not None and wrong.any():
            row, column = centre(wrong)
            self.clicks.append((column + 0.5, row + 0.5, float(positive)))


class SimulatedClicks(EvalProtocol):
    """The objects of one image, each prompted until its IoU reaches the highest threshold, or LIMIT times.

    The first prompt of an object is a start shape, by default a click at its centre; all further ones are clicks at the centre
    of its missing part. All marks of an object form one region. The regions of the prompt itself are ignored.
    """

    uses_memory = False
    shares_image = True
    adaptive = True
    group_size: int | None = None
    """Maximum number of objects in a query; None: all objects of the image."""

    def __init__(
        self,
        example: Example,
        prediction_fn: PredictionFn,
        references: ReferenceFrames | None = None,
        *,
        start: str = "point",
    ) -> None:
        """start: a key of START_SHAPES. Random shapes depend on the name of the example and the index of the object alone."""
        super().__init__(example, prediction_fn, references)
        (prompt,) = example.prompts
        if prompt.masks is None or not len(prompt.masks):
            raise UserError(f"{example.name}: has no objects to click on; its reader must return masks")
        self.steps = LIMIT
        targets = prompt.masks[np.argsort(prompt.labels), 0]
        ignore = np.zeros(targets.shape[1:], bool) if prompt.ignore is None else prompt.ignore[0]
        self._objects = []
        for k, target in enumerate(targets):
            counted = target & ~ignore
            rng = np.random.default_rng([zlib.crc32(example.name.encode("utf-8", "replace")), k])
            region = START_SHAPES[start](counted, rng) if counted.any() else None
            self._objects.append(ClickedObject(target, ignore, region))
            self._mark(self._objects[-1])
        size = self.group_size or len(targets)
        self._groups = [self._objects[k : k + size] for k in range(0, len(targets), size)]

    @property
    def prompts(self) -> int:
        return len(self._groups)

    def prompt_at(self, index: int) -> Prompt:
        regions = tuple(one.region() for one in self._groups[index])
        return dataclasses.replace(self.example.prompts[0], regions=regions)

    def _single_query(self, prompt: Prompt, frame: int) -> Example:
        return super()._single_query(prompt, 0)

    def bucket_of_longest_query(self, prompt: int, bucket: Callable[[Example], T]) -> T:
        """Returns bucket(query) for a query with as many regions as a group may have, each with as many clicks as at the last
        step. A region without marks stays empty."""
        group = self._groups[prompt]
        regions = [one.region(self._further_clicks(one.target.shape)) for one in group]
        regions += regions[:1] * ((self.group_size or len(group)) - len(group))
        longest = dataclasses.replace(self.example.prompts[0], regions=tuple(regions))
        return bucket(self._single_query(longest, 0))

    def _further_clicks(self, size: Sequence[int]) -> list[tuple[float, float, float]]:
        """Returns the maximum number of clicks after the first prompt, at different pixels."""
        return spread_points(LIMIT - 1, size, positive=True)

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        group = self._groups[prompt]
        active = self._active_objects(group)
        if not active:
            return
        prediction = self._prediction_fn(self.prompt_at(prompt), outputs)
        for one, mask in zip(group, prediction.masks, strict=True):
            if any(one is other for other in active):
                one.mask = np.array(mask)
                intersection, union = count_overlap(mask, one.target, one.ignore)
                one.ious.append(intersection / union if union else 1.0)
                self._add_click(one)
                self._mark(one)

    def _active_objects(self, group: Sequence[ClickedObject]) -> list[ClickedObject]:
        """Returns the objects of a group whose predictions still count."""
        return [one for one in group if not one.ious or one.ious[-1] < THRESHOLDS[-1]]

    def _add_click(self, one: ClickedObject) -> None:
        """Adds the next click on an object, unless all missing pixels have been clicked."""
        one.click(one.target & ~one.mask & ~one.marked & ~one.ignore, positive=True)

    def _mark(self, one: ClickedObject) -> None:
        """Updates the marked pixels of an object: all that the model sees as marked, except for boxes."""
        region = dataclasses.replace(one.region(), boxes=np.zeros((0, 4)))
        if region.mask is not None or len(region.points):
            one.marked = draw_region(region, one.target.shape)

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        masks, ious = np.stack([one.mask for one in self._objects]), tuple(tuple(one.ious) for one in self._objects)
        return [(self.example.prompts[0], [Prediction(masks, ious=ious)])]


class CorrectiveClicks(SimulatedClicks):
    """Positive and negative clicks by the rules of SEEM's evaluation, for systems that take both and get their previous mask.

    Up to five objects are answered in one query, until all of them are above the highest threshold, or LIMIT times. The next
    click is on the missing pixels, or on those that are too many (negative), of whichever there are more, as long as the IoU of
    the object is below GOOD_ENOUGH. A click marks 3 x 3 pixels.
    """

    uses_memory = True
    group_size = 5

    def _further_clicks(self, size: Sequence[int]) -> list[tuple[float, float, float]]:
        positive = super()._further_clicks(size)
        return positive + spread_points(LIMIT - 1, size, positive=False)

    def _active_objects(self, group: Sequence[ClickedObject]) -> list[ClickedObject]:
        return [] if all(one.ious and one.ious[-1] > THRESHOLDS[-1] for one in group) else list(group)

    def _add_click(self, one: ClickedObject) -> None:
        free = ~one.marked & ~one.ignore
        missing, surplus = one.target & ~one.mask & free, one.mask & ~one.target & free
        positive = bool(missing.sum() > surplus.sum())
        if one.ious[-1] < GOOD_ENOUGH:
            one.click(missing if positive else surplus, positive=positive)

    def _mark(self, one: ClickedObject) -> None:
        region = one.region()
        if region.mask is not None:
            one.marked |= region.mask
        for x, y in region.points[-1:, :2].astype(int):
            one.marked[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True


def spread_points(count: int, size: Sequence[int], *, positive: bool) -> list[tuple[float, float, float]]:
    """Returns points (x, y, sign) that are spread evenly over an image of this (height, width)."""
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    return [
        ((k % columns + 0.5) * size[1] / columns, (k // columns + 0.5) * size[0] / rows, float(positive)) for k in range(count)
    ]
