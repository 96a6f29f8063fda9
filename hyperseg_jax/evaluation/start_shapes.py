"""The first prompts of simulated interactions: a click, or a shape drawn on the object."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy.ndimage import distance_transform_edt

from hyperseg_jax.datasets import random_shapes
from hyperseg_jax.structs import Region

SIDES = (800, 1333)
"""Length of the short side, and maximum length of the long side, of the images that random shapes are drawn on, in pixels: the
sizes of their strokes are absolute (SEEM's evaluation)."""
Mask = Bool[np.ndarray, "H W"]


def start_with_point(target: Mask, rng: np.random.Generator) -> Region:
    """Clicks at the centre of the object."""
    row, column = centre(target)
    return Region.from_point(column + 0.5, row + 0.5)


def start_with_box_centre(target: Mask, rng: np.random.Generator) -> Region:
    """Clicks at the centre of the object's box, which may be beside the object: SEEM's evaluation with boxes."""
    return start_with_point(_filled_box(target), rng)


def start_with_box(target: Mask, rng: np.random.Generator) -> Region:
    """Draws the object's box."""
    rows, columns = np.nonzero(target)
    left, top, right, bottom = map(float, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return Region.from_box(left, top, right, bottom)


def start_with_circle(target: Mask, rng: np.random.Generator) -> Region:
    """Draws a wide stroke on the object."""
    return _draw(functools.partial(_draw_stroke, random_shapes.BLOBS), "mask", target, rng)


def start_with_scribble(target: Mask, rng: np.random.Generator) -> Region:
    """Draws a thin stroke on the object."""
    return _draw(functools.partial(_draw_stroke, random_shapes.SCRIBBLES), "scribble", target, rng)


def start_with_polygon(target: Mask, rng: np.random.Generator) -> Region:
    """Draws a smooth outline through up to nine pixels of the object."""
    return _draw(random_shapes.draw_polygon, "scribble", target, rng)


START_SHAPES: dict[str, Callable[[Mask, np.random.Generator], Region]] = {
    "point": start_with_point,
    "circle": start_with_circle,
    "scribble": start_with_scribble,
    "polygon": start_with_polygon,
    "box_centre": start_with_box_centre,
    "box": start_with_box,
}
"""f(mask of an object, which is not empty; rng) -> its first prompt."""


def centre(region: Mask) -> tuple[int, int]:
    """Returns (row, column) of the pixel of a region that is farthest from its border, the first one if several are equal.
    region: not empty; everything beyond the image is outside of it."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    top, left = int(rows[0]), int(columns[0])
    depth = distance_transform_edt(np.pad(region[top : rows[-1] + 1, left : columns[-1] + 1], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return top + int(row), left + int(column)


def _filled_box(target: Mask) -> Mask:
    return np.outer(target.any(1), target.any(0))


def _draw_stroke(brushes: tuple[random_shapes.Brush, ...], target: Mask, rng: np.random.Generator) -> Mask:
    """Draws a stroke that starts at the centre of the object, as in SEEM's evaluation."""
    return random_shapes.draw_strokes(target, brushes, rng, np.array([centre(target)[::-1]]))


def _draw(shape: Callable[[Mask, np.random.Generator], Mask], kind: str, target: Mask, rng: np.random.Generator) -> Region:
    """Draws a shape on the object at the size of SIDES. Where none comes out, as on a very small object, it is clicked."""
    height, width = target.shape
    scale = min(SIDES[0] / min(height, width), SIDES[1] / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    enlarged = np.array(Image.fromarray(target.astype(np.uint8)).resize(size, Image.Resampling.NEAREST), bool)
    rows, columns = np.nonzero(shape(enlarged, rng)) if enlarged.any() else ((), ())
    drawn = np.zeros(target.shape, bool)
    centres = lambda at, old, new: (2 * np.asarray(at, int) + 1) * old // (2 * new)  # as nearest neighbours are chosen
    drawn[centres(rows, height, size[1]), centres(columns, width, size[0])] = True
    return Region.from_mask(drawn, kind) if drawn.any() else start_with_point(target, rng)
