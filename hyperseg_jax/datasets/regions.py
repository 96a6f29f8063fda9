"""Transforms visual prompts (regions) with their image: flip, crop, rescale."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hyperseg_jax.structs import Region

Window = tuple[slice, slice]
"""Rows and columns of an image."""


def flip_region(region: Region, width: int) -> Region:
    """Flips a region horizontally in an image of this width. Each point maps to the mirrored pixel."""

    def flip_points(points: np.ndarray) -> np.ndarray:
        """x' = width - x or, if that lies in the neighbouring pixel (x = 3 lies in pixel 3), the centre of the mirrored
        pixel."""
        x, pixel = width - points[:, 0], width - 1 - np.floor(points[:, 0])
        return np.column_stack([np.where(np.floor(x) == pixel, x, pixel + 0.5), points[:, 1:]])

    left, top, right, bottom = region.boxes.T
    return dataclasses.replace(
        region,
        points=flip_points(region.points),
        boxes=np.column_stack([width - right, top, width - left, bottom]),
        scribbles=tuple(map(flip_points, region.scribbles)),
        mask=None if region.mask is None else region.mask[:, ::-1],
    )


def crop_region(region: Region, window: Window) -> Region:
    """Crops a region to a window; coordinates are relative to the top left corner of the window. Keeps points inside, clips
    boxes, and keeps scribbles with at least one corner inside, including their other corners."""
    corner = np.array([window[1].start, window[0].start], np.float64)
    size = np.array([window[1].stop, window[0].stop]) - corner
    inside = lambda points: ((points[:, :2] >= 0) & (points[:, :2] < size)).all(1)
    points, boxes = region.points - [*corner, 0], region.boxes - [*corner, *corner]
    lines = [line - corner for line in region.scribbles]
    visible = ((boxes[:, :2] < size) & (boxes[:, 2:] > 0)).all(1)
    return dataclasses.replace(
        region,
        points=points[inside(points)],
        boxes=np.clip(boxes[visible], 0, [*size, *size]),
        scribbles=tuple(line for line in lines if inside(line).any()),
        mask=None if region.mask is None else region.mask[window],
    )


def has_positive_mark(region: Region) -> bool:
    """Returns whether a region has a positive mark: a positive point, a box, a scribble or a nonempty mask."""
    has_mask = region.mask is not None and bool(region.mask.any())
    return has_mask or bool((region.points[:, 2] == 1).any() or len(region.boxes) or region.scribbles)


def rescale_region(region: Region, ratio: tuple[float, float], scale_mask: Callable[[np.ndarray], np.ndarray]) -> Region:
    """Rescales a region with its image. ratio: new / old height and width. scale_mask: rescales a mask."""
    vertical, horizontal = ratio
    return dataclasses.replace(
        region,
        points=region.points * [horizontal, vertical, 1],
        boxes=region.boxes * [horizontal, vertical, horizontal, vertical],
        scribbles=tuple(line * [horizontal, vertical] for line in region.scribbles),
        mask=None if region.mask is None else scale_mask(region.mask),
    )
