"""Polygons painted as OpenCV's fillPoly paints them, whose masks are the truth of RefCOCO and ReasonSeg."""

from __future__ import annotations

import numpy as np

_ONE = 1 << 16  # OpenCV follows edges in steps of this part of a pixel


def fill_poly(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """What lies inside (even-odd) and the outline, corners truncated to whole pixels.

    polygon: [V, 2] as x, y. Returns bool [height, width]. Equal to OpenCV 5.0 for polygons inside the picture; it draws
    outlines that leave the picture a little differently, where they are cut.
    """
    canvas = np.zeros((height, width), bool)
    corners = np.trunc(polygon).astype(np.int64)
    start, end = np.roll(corners, 1, 0), corners
    for x, y in (_outline(start, end), _inside(start, end, height, width)):
        seen = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        canvas[y[seen], x[seen]] = True
    return canvas


def _counted(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of sum(lengths) elements, whose it is and its number there from 0."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _outline(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y of every pixel of the edges, by Bresenham's rule from left to right."""
    turned = (end[:, 0] < start[:, 0])[:, None]
    start, end = np.where(turned, end, start), np.where(turned, start, end)
    step, way = np.abs(end - start), np.sign(end - start)
    steep = step[:, 1] > step[:, 0]
    owner, k = _counted(step.max(1) + 1)
    long, short = np.maximum(step.max(1), 1)[owner], step.min(1)[owner]
    aside = -((long - 2 * short * k) // (2 * long))
    along = np.where(steep[owner, None], np.stack([aside, k], 1), np.stack([k, aside], 1))
    x, y = (start[owner] + way[owner] * along).T
    return x, y


def _inside(start: np.ndarray, end: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x, y of every pixel between the first and second, third and fourth, ... edge that crosses a row."""
    upside_down = (end[:, 1] < start[:, 1])[:, None]
    start, end = np.where(upside_down, end, start), np.where(upside_down, start, end)
    tall = end[:, 1] - start[:, 1]
    run = (end[:, 0] - start[:, 0]) * _ONE
    slope = np.sign(run) * (np.abs(run) // np.maximum(tall, 1))
    owner, k = _counted(tall)
    x, y = start[owner, 0] * _ONE + slope[owner] * k, start[owner, 1] + k
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    left, right, row = np.maximum((x[::2] + _ONE - 1) // _ONE, 0), np.minimum(x[1::2] // _ONE, width - 1), y[::2]
    owner, k = _counted(np.where((row >= 0) & (row < height), np.maximum(right - left + 1, 0), 0))
    return left[owner] + k, row[owner]
