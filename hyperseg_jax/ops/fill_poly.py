"""Polygons painted as OpenCV's fillPoly paints them, whose masks are the truth of RefCOCO and ReasonSeg."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Real

_ONE = 1 << 16  # OpenCV follows edges in steps of this part of a pixel


def fill_poly(polygon: Real[np.ndarray, "V 2"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """What lies inside (even-odd) and the outline, corners truncated to whole pixels.

    polygon: x and y of its corners. Equal to OpenCV 5.0.
    """
    canvas = np.zeros((height, width), bool)
    corners = np.trunc(polygon).astype(np.int64)
    start, end = np.roll(corners, 1, 0), corners
    drawn = np.ones(len(corners), bool)
    seen_start, seen_end = start.copy(), end.copy()  # what the image shows of each edge
    beyond = (corners < 0).any(1) | (corners >= (width, height)).any(1)
    for k in np.flatnonzero(beyond | np.roll(beyond, 1)):
        drawn[k], seen_start[k], seen_end[k] = _cut(start[k].tolist(), end[k].tolist(), width - 1, height - 1)
    rises = (seen_start[:, 1] != seen_end[:, 1])[:, None]
    ways = np.where(rises, seen_start, start), np.where(rises, seen_end, end)
    for x, y in (_outline(seen_start[drawn], seen_end[drawn]), _inside(start, end, ways, height, width)):
        seen = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        canvas[y[seen], x[seen]] = True
    return canvas


def _cut(start: list[int], end: list[int], right: int, bottom: int) -> tuple[bool, list[int], list[int]]:
    """Whether an image shows an edge, and its ends there: cut at the upper and lower border first, rounded towards zero."""
    ends = [list(start), list(end)]

    def sides(point: list[int]) -> int:
        x, y = point
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    for axis, mask, last in ((1, 12, bottom), (0, 3, right)):
        if sides(ends[0]) & sides(ends[1]):
            return False, ends[0], ends[1]
        for k in (0, 1):
            if sides(ends[k]) & mask:
                border = 0 if ends[k][axis] < 0 else last
                away = border - ends[k][axis]
                ends[k][1 - axis] += int(away * (ends[1][1 - axis] - ends[0][1 - axis]) / (ends[1][axis] - ends[0][axis]))
                ends[k][axis] = border
    return not (sides(ends[0]) | sides(ends[1])), ends[0], ends[1]


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


def _inside(
    start: np.ndarray, end: np.ndarray, ways: tuple[np.ndarray, np.ndarray], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """x, y of every pixel between the first and second, third and fourth, ... edge that crosses a row.

    ways: two points of each edge that its slope is taken from, in the same order.
    """
    upside_down = (end[:, 1] < start[:, 1])[:, None]
    low, high = np.where(upside_down, end, start), np.where(upside_down, start, end)
    first, second = (np.where(upside_down, *pair) for pair in ((ways[1], ways[0]), (ways[0], ways[1])))
    tall = high[:, 1] - low[:, 1]
    run, rise = (second[:, 0] - first[:, 0]) * _ONE, np.maximum(second[:, 1] - first[:, 1], 1)
    slope = np.sign(run) * (np.abs(run) // rise)
    origin = first[:, 0] * _ONE + (low[:, 1] - first[:, 1]) * slope
    owner, k = _counted(tall)
    x, y = origin[owner] + slope[owner] * k, low[owner, 1] + k
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    left, right, row = np.maximum((x[::2] + _ONE - 1) // _ONE, 0), np.minimum(x[1::2] // _ONE, width - 1), y[::2]
    owner, k = _counted(np.where((row >= 0) & (row < height), np.maximum(right - left + 1, 0), 0))
    return left[owner] + k, row[owner]
