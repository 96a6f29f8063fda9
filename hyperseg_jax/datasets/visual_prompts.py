"""Visual prompts: generates points, scribbles, boxes and coarse masks for objects, and rasterizes regions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import note_problem, report_problem
from hyperseg_jax.datasets.regions import has_positive_mark
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.dilation import dilate
from hyperseg_jax.structs import Region
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped_value

RADIUS_DIVISORS = {"point": 54, "scribble": 108}
"""The default dilation of points and scribbles is the square root of the image area divided by these: 10 and 5 pixels in
typical COCO images (640 x 480 and 640 x 427)."""
BOX_SCALE = (0.9, 1.1)
"""Size of a generated box relative to the true box, as in the COCO-Interactive files."""


def mark_radius(kind: str, height: int, width: int) -> int:
    """Returns the default dilation of a point or scribble in pixels for an image of this size.

    It is proportional to the square root of the area, so that a mark covers the same fraction of the model input for all image
    sizes.
    """
    return max(1, round(math.sqrt(height * width) / RADIUS_DIVISORS[kind]))


def thicken_mark(mark: np.ndarray, kind: str, radius: int | None = None) -> np.ndarray:
    """Dilates a mark for the model input: points and scribbles are dilated, boxes and masks are unchanged.

    mark: bool [H, W]. kind: one of KINDS. radius: pixels; None: `mark_radius` of the image. Returns bool [H, W].
    """
    if kind not in RADIUS_DIVISORS:
        return mark
    return dilate(mark, mark_radius(kind, *mark.shape) if radius is None else radius)


def thicken_region_mask(region: Region) -> Region:
    """Returns the region with its mask dilated as for the model input. Used before an image is cropped or downscaled, so that
    thin lines are not lost."""
    if region.mask is None or region.radius == 0:
        return region
    return dataclasses.replace(region, mask=thicken_mark(region.mask, region.kind, region.radius), radius=0)


def draw_region(region: Region, shape: Sequence[int]) -> np.ndarray:
    """Rasterizes all marks of a region to one mask, for models with mask prompts.

    Positive points become discs, scribbles thick lines, boxes are filled, and a mask is dilated by its radius and may be empty.
    Negative points are not drawn.
    shape: (height, width) of the image. Returns bool [height, width]. Raises UserError without a positive mark or if a mark is
    outside the image.
    """
    image = f"an image of {shape[1]} x {shape[0]} pixels"
    if region.mask is not None and region.mask.shape != tuple(shape):
        raise UserError(f"a mask of {region.mask.shape} (height, width) was drawn on {image}; give it the same size")
    positive = region.points[region.points[:, 2] == 1, :2]
    if not has_positive_mark(region) and (region.mask is None or len(region.points)):
        why = "has only points beside the object" if len(region.points) else "is empty"
        raise UserError(f"it {why}; add a point on the object, a box, a scribble or a mask")
    mask = thicken_region_mask(region).mask
    drawn = np.zeros(shape, bool) if mask is None else np.array(mask, bool)
    if len(positive):
        drawn |= thicken_mark(_draw_points(positive, shape), "point")
    for box in region.boxes.tolist():
        if not shares_area(box, shape):
            raise UserError(f"the box {_format_numbers(box)} is not in {image}; draw it inside")
        drawn[_filled_box_slices(shape, *box)] = True
    if region.scribbles:
        drawn |= thicken_mark(_draw_lines(region.scribbles, shape), "scribble")
    return drawn


def _draw_points(points: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns bool [height, width]: the pixels that contain points [N, 2]. Raises UserError for a point outside the image."""
    height, width = shape
    drawn = np.zeros(shape, bool)
    for x, y in points.tolist():
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"the point {_format_numbers((x, y))} is not inside an image of {width} x {height} pixels; move it inside"
            )
        drawn[int(y), int(x)] = True
    return drawn


def _draw_lines(scribbles: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Draws scribbles as thin lines, bool [height, width]. What is outside the image is cut. Raises UserError
    if no pixel of a scribble is inside."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    for scribble in scribbles:
        corners = [tuple(corner) for corner in np.floor(scribble).astype(int).tolist()]
        pen = ImageDraw.Draw(canvas)
        pen.line(corners, fill=1)
        pen.point(corners, fill=1)  # a line with one corner has no length
    drawn = np.array(canvas) > 0
    if not drawn.any() or not all(shares_pixels(scribble, shape) for scribble in scribbles):
        raise UserError(f"no pixel of a scribble is inside an image of {width} x {height} pixels; draw it inside")
    return drawn


def _format_numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def shares_area(box: Sequence[float], shape: Sequence[int]) -> bool:
    """Returns whether a box (left, top, right, bottom) overlaps an image of this (height, width)."""
    left, top, right, bottom = box
    return left < shape[1] and top < shape[0] and right > 0 and bottom > 0


def shares_pixels(scribble: np.ndarray, shape: Sequence[int]) -> bool:
    """Returns whether the box around a scribble [V, 2] overlaps an image of this (height, width)."""
    return bool((scribble.max(0) >= 0).all() and (scribble.min(0) < (shape[1], shape[0])).all())


def box_region(box: object, size: tuple[int, int], where: str) -> Region | None:
    """Converts a box [x, y, width, height] of a file to a region, clipped to the image.

    size: (height, width) of the image. where: file and field, for messages. Raises UserError if the box is invalid; during a
    check, reports the problem and returns None. A box that contains no pixel of the image becomes an empty one at its border,
    as in the published readers; a check reports it.
    """
    budget.charge_masks(1, size, where)
    try:
        numbers = fields.parse_numbers(box)
        if numbers is None:
            raise TypeError
        x, y, width, height = map(float, numbers)
        pixels = math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)
        if width < 0 or height < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        report_problem("bad mask", f"{where}: box {escaped_value(box)} is invalid, expected [x, y, width, height]; correct it")
        return None
    if pixels[0] >= pixels[2] or pixels[1] >= pixels[3] or not shares_area(pixels, size):
        why = f"contains no pixel of its image, {size[1]}x{size[0]}; correct or remove it"
        note_problem("bad mask", f"{where}: box {escaped_value(box)} {why}")
    left, right = (min(max(0.0, edge), size[1]) for edge in (x, x + width))
    top, bottom = (min(max(0.0, edge), size[0]) for edge in (y, y + height))
    return Region.from_box(left, top, right, bottom)


def filled_box(shape: Sequence[int], left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Rasterizes a box for the model input: fills all pixels between its sides, which are rounded to whole pixels.

    shape: (height, width) of the image, which the box must overlap. left, top, right, bottom: pixels from the top left. At
    least one pixel is filled. Returns bool [height, width].
    """
    box = np.zeros(shape, bool)
    box[_filled_box_slices(shape, left, top, right, bottom)] = True
    return box


def _filled_box_slices(shape: Sequence[int], left: float, top: float, right: float, bottom: float) -> tuple[slice, ...]:
    """Returns the slice of rows and the slice of columns that `filled_box` fills."""
    sides = []
    for low, high, size in ((top, bottom, shape[0]), (left, right, shape[1])):
        first = min(max(0, round(low)), size - 1)
        sides.append(slice(first, max(first + 1, round(high))))
    return tuple(sides)


def _blur_5x5(mask: np.ndarray) -> np.ndarray:
    """Returns the mean over 5x5 pixels."""
    total = np.pad(mask.astype(np.float64), 3).cumsum(0).cumsum(1)
    return (total[5:, 5:] - total[:-5, 5:] - total[5:, :-5] + total[:-5, :-5])[: mask.shape[0], : mask.shape[1]] / 25


def draw_marks(mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Generates one mark of each kind for an object.

    mask: bool [H, W], not empty. Returns {"point": one pixel inside, "scribble": a thin line inside, "box": a filled
    box of approximately the true size, "mask": the mask with a perturbed border}, each bool [H, W].
    """
    height, width = mask.shape
    blurred = _blur_5x5(mask)
    interior = np.argwhere(mask & (blurred >= 0.5 * blurred[mask].max()))
    point = np.zeros_like(mask)
    point[tuple(interior[int(rng.integers(len(interior)))])] = True

    corners = interior[rng.integers(len(interior), size=4)]
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).line([(int(x), int(y)) for y, x in corners], fill=1)
    scribble = ((np.array(canvas) > 0) & mask) | point

    low, high = BOX_SCALE
    sides = []
    for line in (np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))):
        half = 0.5 * (line[-1] + 1 - line[0]) * (low + (high - low) * rng.random())
        middle = 0.5 * (line[-1] + 1 + line[0])
        sides.append((middle - half, middle + half))
    (top, bottom), (left, right) = sides
    box = filled_box(mask.shape, left, top, right, bottom)

    coarse = blurred > 0.35 + 0.3 * rng.random()
    return {"point": point, "scribble": scribble, "box": box, "mask": coarse if coarse.any() else mask}
