"""Masks as files write them: run lengths (COCO) and polygons. Host side, NumPy, pycocotools and Pillow."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.ops.fill_poly import fill_poly
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import shown, shown_value

POLYGON_RULES = ("fill_poly", "coco")
MAX_COORDINATE = 1e6  # pixels; no corner lies beyond
MAX_OUTLINE = 1e6  # pixels; filling takes memory for each


def decode(segmentation: dict | list, height: int, width: int, where: str, *, polygons: str = "fill_poly") -> np.ndarray:
    """A segmentation of a json file as a bool mask.

    segmentation: run lengths (compressed or not), or a list of polygons [x0, y0, x1, y1, ...].
    height, width: of the image. where: file and field, for the message.
    polygons: how they are filled, one of POLYGON_RULES: "fill_poly" as cv2.fillPoly (the authors' json of RefCOCO, ReasonSeg),
    "coco" as pycocotools (COCO's own scores, the REFER tools).
    Returns bool [height, width]. Raises UserError for another size or an unreadable segmentation.
    """
    budget.charge(1, (height, width), where)
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width, where, polygons)
    try:
        size, counts = tuple(segmentation["size"]), segmentation["counts"]
        if size != (height, width):
            return _report_wrong_size(size, height, width, where)
        return run_lengths.decode(counts, height, width)
    except Problem:
        raise
    except ValueError as error:
        why = shown(str(error))
    except (KeyError, TypeError, OverflowError):
        why = f"found {shown_value(segmentation)}"
    report_problem("bad mask", f"{where}: neither polygons nor run lengths ({why}); write the annotation again")
    return np.zeros((height, width), bool)


def _polygons(segmentation: list, height: int, width: int, where: str, rule: str) -> np.ndarray:
    try:
        flat = [np.asarray(polygon, np.float64) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        flat = [np.empty(0)]
    if not flat or any(
        one.ndim != 1 or one.size < 6 or one.size % 2 or not (np.abs(one) < MAX_COORDINATE).all() for one in flat
    ):
        report_problem("bad mask", f"{where}: a polygon needs at least three x, y pairs; correct or remove it")
        return np.zeros((height, width), bool)
    around = sum(float(np.abs(np.diff(one.reshape(-1, 2), axis=0, append=one[None, :2])).sum()) for one in flat)
    if around > MAX_OUTLINE:
        report_problem("bad mask", f"{where}: its polygons are {around:.0f} pixels around; correct their corners")
        return np.zeros((height, width), bool)
    if rule == "fill_poly":
        return fill_polygons([one.reshape(-1, 2) for one in flat], height, width)
    parts = coco_mask.frPyObjects([one.tolist() for one in flat], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def _report_wrong_size(size: tuple, height: int, width: int, where: str) -> np.ndarray:
    have = "x".join(str(side) for side in size[::-1])
    report_problem(
        "wrong size",
        f"{where}: the mask is {have} pixels, its image {width}x{height}; annotation and image must be of one size",
    )
    return np.zeros((height, width), bool)


def parse_points(points: object) -> np.ndarray | None:
    """A list of at least two [x, y] as float64 [V, 2]; None where it is none."""
    try:
        found = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    fits = found.ndim == 2 and found.shape[1] == 2 and len(found) > 1 and (np.abs(found) < MAX_COORDINATE).all()
    return found if fits else None


def fill_polygons(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons, corners truncated to whole pixels and outlines included, as cv2.fillPoly paints them.

    polygons: each [V, 2] as x, y. Returns bool [height, width].
    """
    painted = np.zeros((height, width), bool)
    for polygon in polygons:
        painted |= fill_poly(np.asarray(polygon), height, width)
    return painted


_NEIGHBOURS = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))
"""The eight neighbours clockwise from above, as x, y."""


def _border(mask: np.ndarray) -> np.ndarray:
    """The outer border of the part that holds the first pixel of a mask (Moore neighbours), as [V, 2] of x, y."""
    padded = np.pad(mask, 1)
    row, column = np.unravel_index(int(padded.argmax()), padded.shape)
    start = (int(column), int(row))
    path, here, heading = [start], start, 0
    while True:
        for turn in range(8):
            step = (heading + turn) % 8
            x, y = here[0] + _NEIGHBOURS[step][0], here[1] + _NEIGHBOURS[step][1]
            if padded[y, x]:
                break
        else:
            break  # a single pixel
        if here == start and len(path) > 1 and (x, y) == path[1]:
            path.pop()
            break
        here = (x, y)
        heading = (step + 6) % 8 if step % 2 == 0 else (step + 5) % 8
        path.append(here)
    return np.asarray(path * 3 if len(path) < 3 else path) - 1  # a polygon has three corners, be they the same


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons whose filling is exactly the mask. A part with a hole is cut in two through the hole, because a list of
    polygons cannot say "without".

    mask: bool [H, W]. Returns [V, 2] arrays of x, y (pixel centres).
    """
    polygons = []
    waiting = [mask]
    while waiting:
        left = waiting.pop()
        if not left.any():
            continue
        polygon = _border(left)
        filled = fill_polygons([polygon], *mask.shape)
        holes = filled & ~left
        if holes.any():
            cut = int(np.flatnonzero(holes.any(0)).mean()) + 1
            part = filled & left
            west = part.copy()
            west[:, cut:] = False
            waiting += [left & ~part, west, part & ~west]
        else:
            polygons.append(polygon)
            waiting.append(left & ~filled)
    return polygons
