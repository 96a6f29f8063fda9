"""Drawn regions under changes of their image: flipped, cropped, downscaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hyperseg_jax.structs import Region

Window = tuple[slice, slice]
"""Rows and columns of an image."""


def flipped(region: Region, width: int) -> Region:
    """The region flipped left to right with its image of this width. Each point goes to the flipped pixel."""

    def flipped(places: np.ndarray) -> np.ndarray:
        """x' is width - x, but where that lies in the next pixel, the centre of the right one: x = 3 lies in pixel 3."""
        x, pixel = width - places[:, 0], width - 1 - np.floor(places[:, 0])
        return np.column_stack([np.where(np.floor(x) == pixel, x, pixel + 0.5), places[:, 1:]])

    left, top, right, bottom = region.boxes.T
    return dataclasses.replace(
        region,
        points=flipped(region.points),
        boxes=np.column_stack([width - right, top, width - left, bottom]),
        scribbles=tuple(map(flipped, region.scribbles)),
        mask=None if region.mask is None else region.mask[:, ::-1],
    )


def cropped(region: Region, window: Window) -> Region:
    """What of the region lies in a window, in pixels from the window's top left corner: points inside, the parts of boxes
    inside, scribbles with a corner inside, which keep their other corners."""
    corner = np.array([window[1].start, window[0].start], np.float64)
    size = np.array([window[1].stop, window[0].stop]) - corner
    inside = lambda places: ((places[:, :2] >= 0) & (places[:, :2] < size)).all(1)
    points, boxes = region.points - [*corner, 0], region.boxes - [*corner, *corner]
    lines = [line - corner for line in region.scribbles]
    seen = ((boxes[:, :2] < size) & (boxes[:, 2:] > 0)).all(1)
    return dataclasses.replace(
        region,
        points=points[inside(points)],
        boxes=np.clip(boxes[seen], 0, [*size, *size]),
        scribbles=tuple(line for line in lines if inside(line).any()),
        mask=None if region.mask is None else region.mask[window],
    )


def has_positive_mark(region: Region) -> bool:
    """Whether anything of the region is on its object: points beside it alone, or an empty mask, are not."""
    drawn = region.mask is not None and bool(region.mask.any())
    return drawn or bool((region.points[:, 2] == 1).any() or len(region.boxes) or region.scribbles)


def scaled(region: Region, ratio: tuple[float, float], smaller: Callable[[np.ndarray], np.ndarray]) -> Region:
    """The region in another size of its image. ratio: of heights and widths, new to old. smaller: does the same to a mask."""
    down, across = ratio
    return dataclasses.replace(
        region,
        points=region.points * [across, down, 1],
        boxes=region.boxes * [across, down, across, down],
        scribbles=tuple(line * [across, down] for line in region.scribbles),
        mask=None if region.mask is None else smaller(region.mask),
    )
