"""Interactive segmentation with simulated clicks: each click is at the deepest point of the missing region."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn, T
from hyperseg_jax.metrics.ciou_giou import count_overlap, iou
from hyperseg_jax.metrics.clicks import LIMIT, THRESHOLDS
from hyperseg_jax.structs import Example, Prediction, Prompt, Region


class SimulatedClicks(EvalProtocol):
    """The objects of one image, each clicked until its IoU reaches the highest threshold, or LIMIT times.

    The first click is at the centre of the object, each further one at the centre of its missing part. All clicks of an object
    form one drawn region and are on the object. The regions of the prompt itself are ignored.
    """

    uses_memory = False
    same_image = True
    adaptive = True

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        super().__init__(example, prediction_fn, references)
        (prompt,) = example.prompts
        if prompt.masks is None or not len(prompt.masks):
            raise UserError(f"{example.name}: has no objects to click on; its reader must return masks")
        self.steps = LIMIT
        self._targets = prompt.masks[np.argsort(prompt.labels), 0]
        self._ignore = np.zeros(self._targets.shape[1:], bool) if prompt.ignore is None else prompt.ignore[0]
        self._clicks: list[list[tuple[float, float, float]]] = [[] for _ in self._targets]
        self._drawn = np.zeros_like(self._targets)
        self._ious: list[list[float]] = [[] for _ in self._targets]
        self._masks = np.zeros_like(self._targets)
        for k in range(len(self._targets)):
            self._add_click(k)

    def prompt_at(self, index: int) -> Prompt:
        regions = tuple(map(self._clicked_region, range(len(self._targets))))
        return dataclasses.replace(self.example.prompts[0], regions=regions)

    def _clicked_region(self, k: int) -> Region:
        """Returns the clicks on object k as a region, or an empty mask if the object has no clicks because it is ignored."""
        if not self._clicks[k]:
            return Region.from_mask(self._drawn[k], "point")
        return Region("point", points=np.array(self._clicks[k]))

    def _single_query(self, prompt: Prompt, frame: int) -> Example:
        return super()._single_query(prompt, 0)

    def bucket_of_longest_query(self, prompt: int, bucket: Callable[[Example], T]) -> T:
        """Returns bucket(query) with LIMIT points in each region, as at the last step. A region without points stays empty."""
        prompt_now = self.prompt_at(prompt)
        padded = lambda region: Region("point", points=np.resize(region.points, (LIMIT, 3)))
        regions = tuple(padded(region) if len(region.points) else region for region in prompt_now.regions)
        return bucket(self._single_query(dataclasses.replace(prompt_now, regions=regions), 0))

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        prediction = self._prediction_fn(self.prompt_at(prompt), outputs)
        for k, mask in enumerate(prediction.masks):
            if self._ious[k] and self._ious[k][-1] >= THRESHOLDS[-1]:
                continue
            self._masks[k] = mask
            self._ious[k].append(iou(*count_overlap(mask, self._targets[k], self._ignore)))
            self._add_click(k)

    def _add_click(self, k: int) -> None:
        """Adds the next click on object k, unless all missing pixels have been clicked."""
        missing = self._targets[k] & ~self._masks[k] & ~self._drawn[k] & ~self._ignore
        if missing.any():
            row, column = centre(missing)
            self._clicks[k].append((column + 0.5, row + 0.5, 1))
            self._drawn[k] = draw_region(self._clicked_region(k), missing.shape)

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        return [(self.example.prompts[0], [Prediction(self._masks, ious=tuple(map(tuple, self._ious)))])]


class CorrectiveClicks(SimulatedClicks):
    """Positive and negative clicks, for systems that take both and get their previous mask.

    Each further click is at the centre of the largest error: positive if it is missing from the prediction, negative if the
    prediction has too much.
    """

    uses_memory = True

    def _add_click(self, k: int) -> None:
        clickable, mask = ~self._drawn[k] & ~self._ignore, self._masks[k]
        missing, surplus = self._targets[k] & ~mask & clickable, mask & ~self._targets[k] & clickable
        depths = [deepest_pixel(wrong) if wrong.any() else (0.0, 0, 0) for wrong in (missing, surplus)]
        positive = depths[0][0] >= depths[1][0]
        depth, row, column = depths[0 if positive else 1]
        if depth:
            self._clicks[k].append((column + 0.5, row + 0.5, float(positive)))
            self._drawn[k] |= draw_region(Region.from_point(column + 0.5, row + 0.5), missing.shape)


def centre(region: np.ndarray) -> tuple[int, int]:
    """Returns (row, column) of the pixel of a region that is farthest from its border, see `deepest_pixel`."""
    _, row, column = deepest_pixel(region)
    return row, column


def deepest_pixel(region: np.ndarray) -> tuple[float, int, int]:
    """Returns (distance in pixels to the border, row, column) of the pixel of a region that is farthest from its border, the
    first one if several are equal. region: bool [H, W], not empty; everything beyond the image is outside of it."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    top, left = int(rows[0]), int(columns[0])
    depth = distance_transform_edt(np.pad(region[top : rows[-1] + 1, left : columns[-1] + 1], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return float(depth[row, column]), top + int(row), left + int(column)
