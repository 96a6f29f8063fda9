"""What a person might draw to point at a thing: a point, a scribble, a box, a rough mask."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from hyperseg_jax.ops.dilation import dilate

KINDS = ("point", "scribble", "box", "mask")
"""Kinds of marks."""
POINT_RADIUS = 10
SCRIBBLE_RADIUS = 5
"""Pixels by which the published mapper thickens points and scribbles in training images (HyperSeg 5cfcf52)."""
SHORT_EDGE = 480
"""Pixels of the short edge of the training images (COCO) that these radii are meant for."""
BOX_SCALE = (0.9, 1.1)
"""A drawn box has this size relative to the true one (the rule of the COCO-Interactive files)."""


def point_radius(height: int, width: int) -> int:
    """The radius in pixels with which a point is drawn in an image of this size: the one of training, in proportion to the
    short edge. A model resizes images to one size, so it sees discs as large as those it was trained on."""
    return max(1, round(POINT_RADIUS * min(height, width) / SHORT_EDGE))


def point_disc(shape: tuple[int, int], x: float, y: float, *, radius: int | None = None) -> np.ndarray:
    """A point drawn as in training: one pixel, dilated.

    shape: (height, width) of the image. x, y: pixels from the top left, inside the image; the pixel that holds them is the
    centre. radius: pixels; by default `point_radius` of the image. Returns bool [height, width].
    """
    height, width = shape
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"point ({x}, {y}) is not inside an image of {width} x {height} pixels")
    point = np.zeros(shape, bool)
    point[int(y), int(x)] = True
    return dilate(point, point_radius(height, width) if radius is None else radius)


def thicken(
    mark: np.ndarray, kind: str, *, point_radius: int = POINT_RADIUS, scribble_radius: int = SCRIBBLE_RADIUS
) -> np.ndarray:
    """A mark as a model is shown it: points and scribbles are dilated, boxes and masks stay.

    mark: bool [H, W]. kind: one of KINDS. radii: pixels. Returns bool [H, W].
    """
    return dilate(mark, {"point": point_radius, "scribble": scribble_radius}.get(kind, 0))


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

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    low, high = BOX_SCALE
    box = np.zeros_like(mask)
    sides = []
    for line in (rows, columns):
        half = 0.5 * (line[-1] + 1 - line[0]) * (low + (high - low) * rng.random())
        middle = 0.5 * (line[-1] + 1 + line[0])
        sides.append(slice(max(0, round(middle - half)), max(1, round(middle + half))))
    box[tuple(sides)] = True

    rough = blurred > 0.35 + 0.3 * rng.random()
    return {"point": point, "scribble": scribble, "box": box, "mask": rough if rough.any() else mask}
