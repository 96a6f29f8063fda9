"""What a person might draw to point at a thing: a point, a scribble, a box, a rough mask."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from hyperseg_jax.ops.dilation import dilate

KINDS = ("point", "scribble", "box", "mask")
"""Kinds of marks."""
RADII = {"point": 10, "scribble": 5}
"""Pixels by which the published mapper thickens points and scribbles in training images, whatever their size (HyperSeg
5cfcf52)."""
SIDE = 540
"""Pixels of a side of a square as large as those images commonly are: COCO's, of 640 x 480 and 640 x 427 pixels."""
BOX_SCALE = (0.9, 1.1)
"""A drawn box has this size relative to the true one (the rule of the COCO-Interactive files)."""


def mark_radius(kind: str, height: int, width: int) -> int:
    """Pixels by which a point or a scribble is thickened in an image of this size, unless a reader is told otherwise.

    A model stretches image and mark to one square, so it sees as large a part of any image covered as of COCO's: RADII in an
    image of SIDE x SIDE pixels, in others in proportion to the root of their area.
    """
    return max(1, round(RADII[kind] * math.sqrt(height * width) / SIDE))


def thicken(mark: np.ndarray, kind: str, *, point_radius: int | None = None, scribble_radius: int | None = None) -> np.ndarray:
    """A mark as a model is shown it: points and scribbles are dilated, boxes and masks stay.

    mark: bool [H, W]. kind: one of KINDS. radii: pixels; None: `mark_radius` of the image. Returns bool [H, W].
    """
    if kind not in RADII:
        return mark
    given = point_radius if kind == "point" else scribble_radius
    return dilate(mark, mark_radius(kind, *mark.shape) if given is None else given)


def point_disc(shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    """A point as a model is shown it: one pixel, thickened.

    shape: (height, width) of the image. x, y: pixels from the top left, inside the image; the pixel that holds them is the
    centre. Returns bool [height, width].
    """
    height, width = shape
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"point ({x}, {y}) is not inside an image of {width} x {height} pixels")
    point = np.zeros(shape, bool)
    point[int(y), int(x)] = True
    return thicken(point, "point")


def filled_box(shape: tuple[int, int], left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A box as a model is shown it: all pixels between its sides, which are moved to the nearest borders of pixels.

    shape: (height, width) of the image, which the box shares some area with. left, top, right, bottom: pixels from the top
    left. At least one pixel is filled. Returns bool [height, width].
    """
    box, sides = np.zeros(shape, bool), []
    for low, high, size in ((top, bottom, shape[0]), (left, right, shape[1])):
        first = min(max(0, round(low)), size - 1)
        sides.append(slice(first, max(first + 1, round(high))))
    box[tuple(sides)] = True
    return box


def _blurred(mask: np.ndarray) -> np.ndarray:
    """The mean over 5x5 pixels."""
    total = np.pad(mask.astype(np.float64), 3).cumsum(0).cumsum(1)
    return (total[5:, 5:] - total[:-5, 5:] - total[5:, :-5] + total[:-5, :-5])[: mask.shape[0], : mask.shape[1]] / 25


def draw_marks(mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One mark of each kind for a thing.

    mask: bool [H, W], not empty. Returns {"point": one pixel inside, "scribble": a thin line inside, "box": a filled
    box of about the right size, "mask": the mask with its border moved a little}, each bool [H, W].
    """
    height, width = mask.shape
    blurred = _blurred(mask)
    deep = np.argwhere(mask & (blurred >= 0.5 * blurred[mask].max()))
    point = np.zeros_like(mask)
    point[tuple(deep[int(rng.integers(len(deep)))])] = True

    stops = deep[rng.integers(len(deep), size=4)]
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).line([(int(x), int(y)) for y, x in stops], fill=1)
    scribble = ((np.array(canvas) > 0) & mask) | point

    low, high = BOX_SCALE
    sides = []
    for line in (np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))):
        half = 0.5 * (line[-1] + 1 - line[0]) * (low + (high - low) * rng.random())
        middle = 0.5 * (line[-1] + 1 + line[0])
        sides.append((middle - half, middle + half))
    (top, bottom), (left, right) = sides
    box = filled_box(mask.shape, left, top, right, bottom)

    rough = blurred > 0.35 + 0.3 * rng.random()
    return {"point": point, "scribble": scribble, "box": box, "mask": rough if rough.any() else mask}
