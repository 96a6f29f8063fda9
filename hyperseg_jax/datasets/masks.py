"""Decodes masks of annotation files: COCO run-length encodings and polygons. Host side, NumPy, pycocotools and Pillow."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import Problem, note_problem, report_problem
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.ops.fill_poly import fill_poly
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped, escaped_value

POLYGON_RULES = ("fill_poly", "coco")
MAX_COORDINATE = 1e6  # maximum absolute coordinate of a polygon corner in pixels
MAX_OUTLINE = 1e6  # maximum length of polygon outlines in pixels, plus their corners; filling needs memory for each


def decode_segmentation(
    segmentation: dict | list, height: int, width: int, where: str, *, polygons: str = "fill_poly"
) -> np.ndarray:
    """Decodes the segmentation of a json file to a bool mask.

    segmentation: run-length encoding (compressed or not), or a list of polygons [x0, y0, x1, y1, ...].
    height, width: of the image. where: file and field, for messages.
    polygons: how polygons are filled, one of POLYGON_RULES: "fill_poly" like cv2.fillPoly (RefCOCO json of the authors,
    ReasonSeg), "coco" like pycocotools (COCO metrics, the REFER tools).
    Returns bool [height, width]. Raises UserError for another size or an invalid segmentation.
    """
    mask = _decode_or_report(segmentation, height, width, where, polygons)
    return np.zeros((height, width), bool) if mask is None else mask


def decode_object(segmentation: dict | list, height: int, width: int, where: str, *, polygons: str = "fill_poly") -> np.ndarray:
    """Decodes the segmentation of an object like `decode_segmentation`. During a check, notes one without a pixel, such as a
    polygon outside of the image."""
    mask = _decode_or_report(segmentation, height, width, where, polygons)
    if mask is None:
        return np.zeros((height, width), bool)
    note_empty(mask, where)
    return mask


def note_empty(mask: np.ndarray, where: str) -> None:
    """During a check, records that an object has no pixel of its image. In training it is no target. where: the object, for
    messages."""
    if not mask.any():
        why = f"has no pixel of its image, {mask.shape[1]}x{mask.shape[0]}, so training leaves it out"
        note_problem("bad mask", f"{where}: {why}; correct or remove it")


def _decode_or_report(segmentation: dict | list, height: int, width: int, where: str, polygons: str) -> np.ndarray | None:
    """Returns the mask of a segmentation; None after a reported problem."""
    budget.charge_masks(1, (height, width), where)
    try:
        if isinstance(segmentation, list):
            return _fill(_parse_polygons(segmentation, where), height, width, where, polygons)
        return _decode_runs(segmentation, height, width, where)
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return None


def _decode_runs(segmentation: dict, height: int, width: int, where: str) -> np.ndarray:
    """Decodes run lengths. Raises a Problem if they are invalid, or of another size."""
    try:
        sides, counts = fields.parse_numbers(segmentation["size"]), segmentation["counts"]
        counts = fields.parse_numbers(counts) if isinstance(counts, list) else counts
        if sides is None or None in map(fields.parse_number, sides) or counts is None:
            raise ValueError("a size or run length is not a number")
        if sides == [height, width]:
            return run_lengths.decode(counts, height, width)
    except ValueError as error:
        why = escaped(str(error))
    except (KeyError, TypeError, OverflowError):
        why = f"found {escaped_value(segmentation)}"
    else:
        actual = "x".join(str(side) for side in sides[::-1])
        why = f"the mask is {actual} pixels, its image {width}x{height}"
        raise Problem("wrong size", f"{where}: {why}; annotation and image must have the same size")
    raise Problem("bad mask", f"{where}: neither polygons nor a run-length encoding ({why}); write the annotation again")


def _parse_polygons(segmentation: list, where: str) -> list[np.ndarray]:
    """Returns the polygons of a json file, float64 [V, 2] each. Raises a Problem if there are none, or one is not a list of at
    least three x, y pairs."""
    try:
        flat = [np.asarray(fields.parse_numbers(polygon) or (), np.float64) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        flat = [np.empty(0)]
    if not flat or any(
        polygon.ndim != 1 or polygon.size < 6 or polygon.size % 2 or not (np.abs(polygon) < MAX_COORDINATE).all()
        for polygon in flat
    ):
        raise Problem("bad mask", f"{where}: a polygon needs at least three x, y pairs; correct or remove it")
    return [polygon.reshape(-1, 2) for polygon in flat]


def segmentation_box(segmentation: dict | list, height: int, width: int, where: str) -> tuple[float, float, float, float]:
    """Returns the box (left, top, right, bottom) of the segmentation of a json file: of the corners of its polygons, or of its
    mask. Zeros if it is empty. See decode_segmentation."""
    if not isinstance(segmentation, list):
        return mask_box(decode_segmentation(segmentation, height, width, where))
    try:
        corners = np.concatenate(_parse_polygons(segmentation, where))
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return (0.0, 0.0, 0.0, 0.0)
    return (*corners.min(0).tolist(), *corners.max(0).tolist())


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns the box (left, top, right, bottom) of the pixels of a mask [H, W]; zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0) if len(rows) else (0.0, 0.0, 0.0, 0.0)


def parse_points(points: object) -> np.ndarray | None:
    """Parses a list of at least two [x, y] to float64 [V, 2]; None if it is invalid."""
    pairs = list(map(fields.parse_numbers, points)) if isinstance(points, list) else [None]
    if None in pairs:
        return None
    try:
        array = np.asarray(pairs, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    valid = array.ndim == 2 and array.shape[1] == 2 and len(array) > 1 and (np.abs(array) < MAX_COORDINATE).all()
    return array if valid else None


def fill_polygons(
    polygons: list[np.ndarray], height: int, width: int, where: str = "", *, rule: str = "fill_poly"
) -> np.ndarray:
    """Fills the union of polygons. All are painted in one canvas, and limits.seconds is checked between them.

    polygons: each [V, 2] as x, y. where: file and field, for messages. rule: one of POLYGON_RULES; with "fill_poly",
    corners are truncated to whole pixels, and outlines are included.
    Returns bool [height, width]. Raises UserError for too many or too long edges.
    """
    try:
        return _fill(polygons, height, width, where, rule)
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return np.zeros((height, width), bool)


def _fill(polygons: list[np.ndarray], height: int, width: int, where: str, rule: str) -> np.ndarray:
    """`fill_polygons`, which raises a Problem for too many or too long edges."""
    corners = sum(map(len, polygons))
    perimeter = sum(float(np.abs(np.diff(polygon, axis=0, append=polygon[:1])).sum()) for polygon in polygons)
    if corners + perimeter > MAX_OUTLINE:
        why = f"{corners} corners and a perimeter of {perimeter:.0f} pixels"
        raise Problem("bad mask", f"{where}: its polygons have {why}; correct their corners")
    runs = _coco_polygon_runs if rule == "coco" else fill_poly
    first, after = [np.zeros(0, int)], [np.zeros(0, int)]
    for polygon in polygons:
        budget.check_time(where)
        begin, end = runs(polygon, height, width)
        first.append(begin)
        after.append(end)
    pixels = run_lengths.paint_runs(np.concatenate(first), np.concatenate(after), height * width)
    return pixels.reshape(width, height).T if rule == "coco" else pixels.reshape(height, width)


def _coco_polygon_runs(polygon: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the runs of a polygon down the columns, see fill_poly."""
    (encoded,) = coco_mask.frPyObjects([polygon.reshape(-1).tolist()], height, width)
    edges = np.cumsum(run_lengths.parse_lengths(encoded["counts"], height * width))
    return edges[:-1:2], edges[1::2]


_NEIGHBOURS = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))
"""Offsets (x, y) of the eight neighbours, clockwise from the top."""


def _trace_outer_border(mask: np.ndarray) -> np.ndarray:
    """Traces the outer border of the component with the first pixel of a mask (Moore neighbours), as [V, 2] of x, y."""
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
    return np.asarray(path * 3 if len(path) < 3 else path) - 1  # a polygon needs three corners, possibly identical


def trace_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Returns polygons that fill exactly the mask. A component with a hole is cut in two through the hole, because a list of
    polygons cannot represent holes.

    mask: bool [H, W]. Returns [V, 2] arrays of x, y (pixel centres).
    """
    polygons = []
    pending = [mask]
    while pending:
        remaining = pending.pop()
        if not remaining.any():
            continue
        polygon = _trace_outer_border(remaining)
        filled = fill_polygons([polygon], *mask.shape)
        holes = filled & ~remaining
        if holes.any():
            cut = int(np.flatnonzero(holes.any(0)).mean()) + 1
            component = filled & remaining
            left = component.copy()
            left[:, cut:] = False
            pending += [remaining & ~component, left, component & ~left]
        else:
            polygons.append(polygon)
            pending.append(remaining & ~filled)
    return polygons
