"""Rasterizes polygons exactly like OpenCV's fillPoly, which defines the ground truth of RefCOCO and ReasonSeg."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Real

_ONE = 1 << 16  # one pixel in OpenCV's fixed-point coordinates


def fill_poly(polygon: Real[np.ndarray, "V 2"], height: int, width: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Returns the interior (even-odd rule) and the outline of a polygon, with corners truncated to integers.

    polygon: x and y of its corners. The result equals that of OpenCV 5.0. It is returned as runs of pixels, which may overlap:
    the numbers of their first pixels, counted along the rows, and of the pixels after their last ones.
    """
    corners = np.trunc(polygon).astype(np.int64)
    start, end = np.roll(corners, 1, 0), corners
    is_visible = np.ones(len(corners), bool)
    clipped_start, clipped_end = start.copy(), end.copy()  # each edge, clipped to the image
    is_outside = (corners < 0).any(1) | (corners >= (width, height)).any(1)
    for k in np.flatnonzero(is_outside | np.roll(is_outside, 1)):
        is_visible[k], clipped_start[k], clipped_end[k] = _clip_edge(start[k].tolist(), end[k].tolist(), width - 1, height - 1)
    rises = (clipped_start[:, 1] != clipped_end[:, 1])[:, None]
    slope_points = np.where(rises, clipped_start, start), np.where(rises, clipped_end, end)
    x, y = _outline_pixels(clipped_start[is_visible], clipped_end[is_visible])
    left, right, row = _interior_spans(start, end, slope_points, width)
    left, right, row = np.append(left, x), np.append(right, x), np.append(row, y)
    is_inside = (left >= 0) & (right < width) & (left <= right) & (row >= 0) & (row < height)
    first = (row * width)[is_inside]
    return first + left[is_inside], first + right[is_inside] + 1


def _clip_edge(start: list[int], end: list[int], right: int, bottom: int) -> tuple[bool, list[int], list[int]]:
    """Clips an edge to the image, in y first, rounding toward zero; returns whether it is visible, and its end points."""
    ends = [list(start), list(end)]

    def outside_sides(point: list[int]) -> int:
        x, y = point
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    for axis, mask, last in ((1, 12, bottom), (0, 3, right)):
        if outside_sides(ends[0]) & outside_sides(ends[1]):
            return False, ends[0], ends[1]
        for k in (0, 1):
            if outside_sides(ends[k]) & mask:
                border = 0 if ends[k][axis] < 0 else last
                distance = border - ends[k][axis]
                ends[k][1 - axis] += int(distance * (ends[1][1 - axis] - ends[0][1 - axis]) / (ends[1][axis] - ends[0][axis]))
                ends[k][axis] = border
    return not (outside_sides(ends[0]) | outside_sides(ends[1])), ends[0], ends[1]


def _group_indices(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each of sum(lengths) elements, the index of its group and its index in the group."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _outline_pixels(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns x, y of all pixels of the edges, by Bresenham's algorithm from left to right."""
    turned = (end[:, 0] < start[:, 0])[:, None]
    start, end = np.where(turned, end, start), np.where(turned, start, end)
    step, direction = np.abs(end - start), np.sign(end - start)
    steep = step[:, 1] > step[:, 0]
    owner, k = _group_indices(step.max(1) + 1)
    long, short = np.maximum(step.max(1), 1)[owner], step.min(1)[owner]
    minor_offset = -((long - 2 * short * k) // (2 * long))
    offsets = np.where(steep[owner, None], np.stack([minor_offset, k], 1), np.stack([k, minor_offset], 1))
    x, y = (start[owner] + direction[owner] * offsets).T
    return x, y


def _interior_spans(
    start: np.ndarray, end: np.ndarray, slope_points: tuple[np.ndarray, np.ndarray], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (first x, last x, y) of the spans of pixels inside the polygon: between the first and second, third and fourth,
    ... edge that crosses a row. slope_points: two points of each edge that define its slope, in the order of the edges."""
    upside_down = (end[:, 1] < start[:, 1])[:, None]
    low, high = np.where(upside_down, end, start), np.where(upside_down, start, end)
    first, second = (
        np.where(upside_down, *pair) for pair in ((slope_points[1], slope_points[0]), (slope_points[0], slope_points[1]))
    )
    tall = high[:, 1] - low[:, 1]
    run, rise = (second[:, 0] - first[:, 0]) * _ONE, np.maximum(second[:, 1] - first[:, 1], 1)
    slope = np.sign(run) * (np.abs(run) // rise)
    origin = first[:, 0] * _ONE + (low[:, 1] - first[:, 1]) * slope
    owner, k = _group_indices(tall)
    x, y = origin[owner] + slope[owner] * k, low[owner, 1] + k
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    return np.maximum((x[::2] + _ONE - 1) // _ONE, 0), np.minimum(x[1::2] // _ONE, width - 1), y[::2]
