"""Visual prompts as SAM's marks: points and corners of boxes in the model's input (host side, NumPy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from hyperseg_jax.decoders.sam_prompts import ABSENT, BOTTOM_RIGHT, NEGATIVE, NO_POINT, POSITIVE, TOP_LEFT
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Region

SCRIBBLE_POINTS = 8
"""Positive points that stand for a scribble, at equal distances along it: SAM knows points and boxes."""

Marks = tuple[Float32[np.ndarray, "M 2"], Int32[np.ndarray, " M"]]
"""Places in pixels of the image, and kinds."""


def region_marks(region: Region, name: str, size: tuple[int, int] | None = None) -> Marks:
    """Returns the marks of a region: its points, then the corners of its box. A mask counts as the box around it.

    size: (height, width) of the image, at whose edges scribbles are cut; None leaves them whole.

    As published, a point that is not a point follows if there is no box. Raises UserError, which names the region, if it has
    several boxes or no mark.
    """
    places, kinds = [region.points[:, :2]], [np.where(region.points[:, 2] == 1, POSITIVE, NEGATIVE)]
    for line in region.scribbles:
        places.append(_along(line, size))
        kinds.append(np.full(len(places[-1]), POSITIVE))
    boxes = [*region.boxes] if region.mask is None else [*region.boxes, mask_box(region.mask, name)]
    if len(boxes) > 1:
        raise UserError(f"{name} has {len(boxes)} boxes or masks; SAM takes one box for each region, so give several regions")
    for box in boxes:
        places.append(np.reshape(box, (2, 2)))
        kinds.append(np.array([TOP_LEFT, BOTTOM_RIGHT]))
    if not sum(map(len, kinds)):
        raise UserError(f"{name} is empty, or outside of the image; add a point, a box, a scribble or a mask")
    if not boxes:
        places.append(np.zeros((1, 2)))
        kinds.append(np.array([NO_POINT]))
    return np.concatenate(places).astype(np.float32), np.concatenate(kinds).astype(np.int32)


def mask_box(mask: np.ndarray, name: str) -> np.ndarray:
    """Returns left, top, right, bottom of the pixels of a mask [H, W]. Raises UserError if it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise UserError(f"{name}: the mask is empty; mark at least one pixel")
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def _along(line: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Returns points at equal distances along a polyline [L, 2]; only those in an image of this (height, width)."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], SCRIBBLE_POINTS if lengths[-1] else 1)
    points = np.stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)], axis=1)
    return points if size is None else points[((points >= 0) & (points < size[::-1])).all(1)]


def mark_arrays(
    regions: Sequence[Region], geometry: Geometry, counts: tuple[int, int]
) -> dict[str, Float32[np.ndarray, "R M 2"] | Int32[np.ndarray, "R M"]]:
    """Returns places float32 [R, M, 2], in pixels of the model's input, and kinds int32 [R, M]. counts: R and M.

    Boxes are clipped to the image. Raises UserError if a point is outside of the image, or a region has too many marks.
    """
    (height, width), scale = geometry.original, np.divide(geometry.filled, geometry.original)[::-1].astype(np.float32)
    places, kinds = np.zeros((*counts, 2), np.float32), np.full(counts, ABSENT, np.int32)
    for n, region in enumerate(regions):
        name = f"region {n + 1}"
        at, kind = region_marks(region, name, (height, width))
        is_point = (kind == POSITIVE) | (kind == NEGATIVE)
        outside = is_point & ((at < 0).any(1) | (at[:, 0] >= width) | (at[:, 1] >= height))
        for x, y in at[outside][:1].tolist():
            raise UserError(
                f"{name}: the point ({x:g}, {y:g}) is not inside an image of {width} x {height} pixels; move it inside"
            )
        if len(kind) > counts[1]:
            raise UserError(f"{name} has {len(kind)} marks, the task has room for {counts[1]}; raise its size marks")
        for corner, limit in ((at[kind == TOP_LEFT], (width, height)), (-at[kind == BOTTOM_RIGHT], (0, 0))):
            if (corner > limit).any():
                raise UserError(f"{name}: the box is outside of an image of {width} x {height} pixels; move it inside")
        places[n, : len(kind)] = np.clip(at, 0, [width, height]) * scale
        kinds[n, : len(kind)] = kind
    return {"places": places, "kinds": kinds}
