"""Masks as files write them: run lengths (COCO) and polygons. Host side, NumPy, pycocotools and Pillow."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.data.formats.fill_poly import fill_poly
from hyperseg_jax.errors import UserError


def encode(mask: np.ndarray) -> dict:
    """A bool mask [H, W] as compressed COCO run lengths, ready for json: {"size": [H, W], "counts": str}."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def decode(segmentation: dict | list, height: int, width: int, where: str) -> np.ndarray:
    """A segmentation of a json file as a bool mask.

    segmentation: run lengths (compressed or not), or a list of polygons [x0, y0, x1, y1, ...].
    height, width: of the picture. where: file and field, for the message.
    Returns bool [height, width]. Raises UserError for another size or an unreadable segmentation.
    """
    if isinstance(segmentation, list):
        if any(len(flat) < 6 or len(flat) % 2 for flat in segmentation):
            raise UserError(f"{where}: a polygon needs at least three x, y pairs; correct or remove it")
        polygons = [np.asarray(flat, np.float64).reshape(-1, 2) for flat in segmentation]
        return fill_polygons(polygons, height, width)
    try:
        size, counts = segmentation["size"], segmentation["counts"]
        runs = (
            coco_mask.frPyObjects(segmentation, *size)
            if isinstance(counts, list)
            else {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
        )
        mask = coco_mask.decode(runs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: neither polygons nor run lengths ({error}); write the annotation again") from error
    return same_size(mask, height, width, where).astype(bool)


def same_size(mask: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """The mask, or a UserError where its size is not the picture's."""
    if mask.shape != (height, width):
        raise UserError(
            f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, its picture {width}x{height}; "
            "annotation and picture must be of one size"
        )
    return mask


def fill_polygons(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons, corners truncated to whole pixels and outlines included, as cv2.fillPoly paints them.

    polygons: each [V, 2] as x, y. Returns bool [height, width].
    """
    painted = np.zeros((height, width), bool)
    for polygon in polygons:
        painted |= fill_poly(np.asarray(polygon), height, width)
    return painted


_AROUND = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))
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
            x, y = here[0] + _AROUND[step][0], here[1] + _AROUND[step][1]
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


def thicken(mask: np.ndarray, radius: int) -> np.ndarray:
    """Every pixel within `radius` of the mask. bool [H, W] -> bool [H, W]."""
    if radius < 1:
        return mask
    height, width = mask.shape
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-int((radius**2 - dy**2) ** 0.5), int((radius**2 - dy**2) ** 0.5) + 1):
            grown |= padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
    return grown
