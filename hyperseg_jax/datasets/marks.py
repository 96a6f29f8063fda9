"""What a person might draw to point at a thing: a point, a scribble, a box, a rough mask."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

BOX_SCALE = (0.9, 1.1)
"""A drawn box has this size relative to the true one (the rule of the COCO-Interactive files)."""


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
