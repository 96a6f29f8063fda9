"""What a person might draw to point at a thing: a point, a scribble, a box, a rough mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hyperseg_jax.datasets.check_errors import complain
from hyperseg_jax.datasets.regions import points_at_something
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.dilation import dilate
from hyperseg_jax.structs import Region
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import shown_value

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


def thicken(mark: np.ndarray, kind: str, radius: int | None = None) -> np.ndarray:
    """A mark as a model is shown it: points and scribbles are dilated, boxes and masks stay.

    mark: bool [H, W]. kind: one of KINDS. radius: pixels; None: `mark_radius` of the image. Returns bool [H, W].
    """
    if kind not in RADII:
        return mark
    return dilate(mark, mark_radius(kind, *mark.shape) if radius is None else radius)


def thickened(region: Region) -> Region:
    """The region with its mask as thick as a model is shown it: before its image is cut or shrunk, which would lose thin
    lines."""
    if region.mask is None or region.radius == 0:
        return region
    return dataclasses.replace(region, mask=thicken(region.mask, region.kind, region.radius), radius=0)


def draw_region(region: Region, shape: Sequence[int]) -> np.ndarray:
    """A region as a model is shown it that takes masks: all of its marks together.

    Points on the object are discs, scribbles thick lines, boxes filled, a mask is thickened by its radius, and may be empty.
    Points beside the object are not drawn.
    shape: (height, width) of the image. Returns bool [height, width]. UserError where nothing points at the object, or a mark
    is not in the image.
    """
    image = f"an image of {shape[1]} x {shape[0]} pixels"
    if region.mask is not None and region.mask.shape != tuple(shape):
        raise UserError(f"a mask of {region.mask.shape} (height, width) was drawn on {image}; give it the same size")
    meant = region.points[region.points[:, 2] == 1, :2]
    if not points_at_something(region) and (region.mask is None or len(region.points)):
        lacks = "has only points beside the object" if len(region.points) else "is empty"
        raise UserError(f"it {lacks}; add a point on the object, a box, a scribble or a mask")
    mask = thickened(region).mask
    drawn = np.zeros(shape, bool) if mask is None else np.array(mask, bool)
    if len(meant):
        drawn |= thicken(_pixels(meant, shape), "point")
    for box in region.boxes.tolist():
        if not shares_area(box, shape):
            raise UserError(f"the box {_numbers(box)} is not in {image}; draw it inside")
        drawn[_inside(shape, *box)] = True
    if region.scribbles:
        drawn |= thicken(_lines(region.scribbles, shape), "scribble")
    return drawn


def _pixels(points: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """bool [height, width]: the pixels that hold points [N, 2]. UserError for one that is not in the image."""
    height, width = shape
    drawn = np.zeros(shape, bool)
    for x, y in points.tolist():
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"the point {_numbers((x, y))} is not inside an image of {width} x {height} pixels; move it inside")
        drawn[int(y), int(x)] = True
    return drawn


def _lines(scribbles: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """bool [height, width]: thin lines. UserError where none of their corners is in the image."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    for scribble in scribbles:
        if not ((scribble >= 0) & (scribble < (width, height))).all(1).any():
            raise UserError(f"no corner of a scribble is inside an image of {width} x {height} pixels; draw it inside")
        corners = [tuple(corner) for corner in np.floor(scribble).astype(int).tolist()]
        pen = ImageDraw.Draw(canvas)
        pen.line(corners, fill=1)
        pen.point(corners, fill=1)  # a line of one corner has no length
    return np.array(canvas) > 0


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def shares_area(box: Sequence[float], shape: Sequence[int]) -> bool:
    """Whether a box (left, top, right, bottom) lies in an image of this (height, width), in part at least."""
    left, top, right, bottom = box
    return left < shape[1] and top < shape[0] and right > 0 and bottom > 0


def box_regions(box: object, size: tuple[int, int], where: str) -> tuple[Region, ...]:
    """A file's box [x, y, width, height] as the one region of a prompt, cut at the border of its image.

    size: (height, width) of the image. where: file and field, for the message. UserError where no pixel of it is left; ()
    while a check collects.
    """
    budget.charge(1, size, where)
    try:
        x, y, width, height = (float(value) for value in box)  # type: ignore[attr-defined]
        whole = math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)
    except (TypeError, ValueError, OverflowError):
        complain("bad mask", f"{where}: a box is [x, y, width, height], found {shown_value(box)}; correct it")
        return ()
    if width < 0 or height < 0 or whole[0] >= whole[2] or whole[1] >= whole[3] or not shares_area(whole, size):
        no_pixel = f"has no pixel of its image, {size[1]}x{size[0]}; correct or remove it"
        complain("bad mask", f"{where}: box {shown_value(box)} {no_pixel}")
        return ()
    return (Region.from_box(max(0, x), max(0, y), min(x + width, size[1]), min(y + height, size[0])),)


def filled_box(shape: Sequence[int], left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A box as a model is shown it: all pixels between its sides, which are moved to the nearest borders of pixels.

    shape: (height, width) of the image, which the box shares some area with. left, top, right, bottom: pixels from the top
    left. At least one pixel is filled. Returns bool [height, width].
    """
    box = np.zeros(shape, bool)
    box[_inside(shape, left, top, right, bottom)] = True
    return box


def _inside(shape: Sequence[int], left: float, top: float, right: float, bottom: float) -> tuple[slice, ...]:
    """The rows and columns of `filled_box`."""
    sides = []
    for low, high, size in ((top, bottom, shape[0]), (left, right, shape[1])):
        first = min(max(0, round(low)), size - 1)
        sides.append(slice(first, max(first + 1, round(high))))
    return tuple(sides)


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
