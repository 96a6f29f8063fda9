"""Interactive segmentation: somebody clicks where the answer lacks most, is answered, and clicks again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn, T
from hyperseg_jax.metrics.ciou_giou import iou, overlap
from hyperseg_jax.metrics.clicks import LIMIT, THRESHOLDS
from hyperseg_jax.structs import Example, Prediction, Prompt, Region


class SimulatedClicks(EvalProtocol):
    """The objects of one image, each clicked until it is found well enough or LIMIT clicks are made.

    The first click is at the centre of the object, each further one at the centre of what the answer lacks of it. The clicks
    of an object are one drawn region, and all of them are on the object. What the prompt itself has drawn is left aside.
    """

    uses_memory = False
    same_image = True
    adaptive = True

    def __init__(self, example: Example, prediction_fn: PredictionFn) -> None:
        super().__init__(example, prediction_fn)
        (prompt,) = example.prompts
        if prompt.masks is None or not len(prompt.masks):
            raise UserError(f"{example.name}: has no object to click at; its reader must give masks")
        self.steps = LIMIT
        self._targets = prompt.masks[np.argsort(prompt.labels), 0]
        self._ignore = np.zeros(self._targets.shape[1:], bool) if prompt.ignore is None else prompt.ignore[0]
        self._clicks: list[list[tuple[float, float, float]]] = [[] for _ in self._targets]
        self._drawn = np.zeros_like(self._targets)
        self._ious: list[list[float]] = [[] for _ in self._targets]
        self._latest = np.zeros_like(self._targets)
        for k in range(len(self._targets)):
            self._click(k)

    def current_prompt(self, prompt: int) -> Prompt:
        regions = tuple(map(self._region, range(len(self._targets))))
        return dataclasses.replace(self.example.prompts[0], regions=regions)

    def _region(self, k: int) -> Region:
        """The clicks at object k; an empty mask where it has none, all of it being ignored."""
        if not self._clicks[k]:
            return Region.of_mask(self._drawn[k], "point")
        return Region("point", points=np.array(self._clicks[k]))

    def _only(self, prompt: Prompt, frame: int) -> Example:
        return super()._only(prompt, 0)

    def measure(self, prompt: int, bucket: Callable[[Example], T]) -> T:
        """With as many points a region as there will be at the last step; a region without any never gets one."""
        asked = self.current_prompt(prompt)
        full = lambda region: Region("point", points=np.resize(region.points, (LIMIT, 3)))
        regions = tuple(full(region) if len(region.points) else region for region in asked.regions)
        return bucket(self._only(dataclasses.replace(asked, regions=regions), 0))

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        found = self._prediction_fn(self.current_prompt(prompt), outputs)
        for k, mask in enumerate(found.masks):
            if self._ious[k] and self._ious[k][-1] >= THRESHOLDS[-1]:
                continue
            self._latest[k] = mask
            self._ious[k].append(iou(*overlap(mask, self._targets[k], self._ignore)))
            self._click(k)

    def _click(self, k: int) -> None:
        """The next one at object k; none where nothing of it is lacking that was not clicked at."""
        lacking = self._targets[k] & ~self._latest[k] & ~self._drawn[k] & ~self._ignore
        if lacking.any():
            row, column = centre(lacking)
            self._clicks[k].append((column + 0.5, row + 0.5, 1))
            self._drawn[k] = draw_region(self._region(k), lacking.shape)

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        return [(self.example.prompts[0], [Prediction(self._latest, ious=tuple(map(tuple, self._ious)))])]


class CorrectiveClicks(SimulatedClicks):
    """Objects that are clicked for a system that takes points beside the object as well, and sees its mask of the round before.

    Each further click is where the answer is wrong farthest from its sides: on the object where it is lacking there, beside it
    where it is too much.
    """

    uses_memory = True

    def _click(self, k: int) -> None:
        here, latest = ~self._drawn[k] & ~self._ignore, self._latest[k]
        lacking, surplus = self._targets[k] & ~latest & here, latest & ~self._targets[k] & here
        depths = [deepest(wrong) if wrong.any() else (0.0, 0, 0) for wrong in (lacking, surplus)]
        on_the_object = depths[0][0] >= depths[1][0]
        depth, row, column = depths[0 if on_the_object else 1]
        if depth:
            self._clicks[k].append((column + 0.5, row + 0.5, float(on_the_object)))
            self._drawn[k] |= draw_region(Region.of_point(column + 0.5, row + 0.5), lacking.shape)


def centre(region: np.ndarray) -> tuple[int, int]:
    """(row, column) of the pixel that lies deepest inside, see `deepest`."""
    _, row, column = deepest(region)
    return row, column


def deepest(region: np.ndarray) -> tuple[float, int, int]:
    """The pixel that lies deepest inside, the first of equals: its distance to what is outside in pixels, its row, its column.
    region: bool [H, W], not empty; beyond the image is outside."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    top, left = int(rows[0]), int(columns[0])
    depth = distance_transform_edt(np.pad(region[top : rows[-1] + 1, left : columns[-1] + 1], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return float(depth[row, column]), top + int(row), left + int(column)
