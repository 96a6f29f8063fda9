"""Images and boxes as inputs of SCA, on the host, as published (github.com/xk-huang/segment-caption-anything, commit 0d3f0b4).

In evaluation, the longest edge is resized to the side S of the padded square with ops/transforms.fit_to_square and
resize_and_pad; the padding is 0 after normalization (systems/pixels.normalize_padded). In training, `augment` comes first; its
image fills the square.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Prompt

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""ImageNet statistics of pixels in 0..1."""
SMALLEST_SIDE = 1e-5
"""Boxes with a side of at most so many pixels are dropped in training."""
MEAN_COLOUR = (MEAN * 255).astype(np.uint8)
ROUNDING = 1e-3
"""Distance to a whole number, in levels of 0..255, within which float32 does not decide how a level is truncated."""
CHUNK = 2**14


def clip_boxes(boxes: Float64[np.ndarray, "R 4"], size: tuple[int, int]) -> Float64[np.ndarray, "R 4"]:
    """Clips boxes (left, top, right, bottom) to an image of this (height, width)."""
    height, width = size
    return np.clip(boxes, 0.0, [width, height, width, height])


def place_boxes(boxes: Float64[np.ndarray, "R 4"], geometry: Geometry) -> Float32[np.ndarray, "R 4"]:
    """Clips boxes to their image and scales them to the model input. No box is dropped."""
    (height, width), (filled_height, filled_width) = geometry.original, geometry.filled
    scale = np.array([filled_width / width, filled_height / height] * 2)
    return (clip_boxes(boxes, geometry.original) * scale).astype(np.float32)


def place_points(points: Float64[np.ndarray, "*R 2"], geometry: Geometry) -> Float32[np.ndarray, "*R 2"]:
    """Scales points x, y to the model input."""
    (height, width), (filled_height, filled_width) = geometry.original, geometry.filled
    return (points * [filled_width / width, filled_height / height]).astype(np.float32)


def nonempty_boxes(boxes: Float64[np.ndarray, "R 4"]) -> Int[np.ndarray, " kept"]:
    """Returns the indices of the boxes that are kept in training: those with two sides above SMALLEST_SIDE."""
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(1))


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Large-scale jitter: the image is fitted inside `scale` times the square, keeping its aspect ratio, and cropped or padded
    to the square.

    offset: position of the crop, 0..1, the same on both axes. side: of the square, in pixels.
    """

    scale: float
    offset: float
    side: int

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) of an image of this size before it is cropped or padded."""
        ratio = min(self.side * self.scale / size[0], self.side * self.scale / size[1])
        height, width = (max(1, round(length * ratio)) for length in size)
        return height, width

    def corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the top and left of the crop in the resized image. size: (height, width) of the image."""
        top, left = (round(max(0, length - self.side) * self.offset) for length in self.resized(size))
        return top, left

    def boxes(self, boxes: Float64[np.ndarray, "R 4"], size: tuple[int, int]) -> Float64[np.ndarray, "R 4"]:
        """Returns boxes of an image of this (height, width) in the square, not clipped."""
        (height, width), (top, left) = self.resized(size), self.corner(size)
        return boxes * ([width / size[1], height / size[0]] * 2) - [left, top, left, top]

    def masks(self, masks: Bool[np.ndarray, "R H W"]) -> Bool[np.ndarray, "R S S"]:
        """Returns the masks in the square, each pixel from the nearest one."""
        size = masks.shape[1], masks.shape[2]
        square = np.zeros((len(masks), self.side, self.side), bool)
        rows, columns = (
            ((np.arange(first, min(new, first + self.side)) + 0.5) * old / new).astype(int)
            for old, new, first in zip(size, self.resized(size), self.corner(size), strict=True)
        )
        square[:, : len(rows), : len(columns)] = masks[:, rows[:, None], columns]
        return square

    def image(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """Returns the square. The published code resizes the normalized image, pads it with 0 (the mean colour), and truncates
        the result to 0..255, so that single levels may be lower by 1."""
        size = image.shape[0], image.shape[1]
        rows, columns = (
            _Taps.of(old, new, first, self.side)
            for old, new, first in zip(size, self.resized(size), self.corner(size), strict=True)
        )
        square = np.full((self.side, self.side, 3), MEAN_COLOUR)
        resized = _resize(image, rows, columns)
        levels = resized.astype(np.uint8)
        near = np.flatnonzero(np.abs(resized - np.rint(resized)) < ROUNDING)
        for start in range(0, len(near), CHUNK):  # the arrays of a chunk fit into a cache
            undecided = np.unravel_index(near[start : start + CHUNK], levels.shape)
            levels[undecided] = _resize_exactly(image, rows, columns, *undecided)
        square[: levels.shape[0], : levels.shape[1]] = levels
        return square


@dataclasses.dataclass(frozen=True)
class _Taps:
    """The two neighbours of each pixel of a resized side, and the weight of the second: PyTorch's bilinear interpolation,
    align_corners False, no antialias."""

    low: Int[np.ndarray, " n"]
    high: Int[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]

    @classmethod
    def of(cls, old: int, new: int, first: int, count: int) -> _Taps:
        """Returns the taps of at most `count` pixels from `first`. old, new: lengths of the side."""
        pixels = np.arange(first, min(new, first + count)) + 0.5
        position = np.maximum(_fused_multiply_add(np.full_like(pixels, old / new), pixels, np.full_like(pixels, -0.5)), 0.0)
        low = np.minimum(position.astype(np.float32).astype(int), old - 1)  # PyTorch rounds to float32 here
        return cls(low, np.minimum(low + 1, old - 1), np.maximum(position - low, 0.0))


def _resize(image: np.ndarray, rows: _Taps, columns: _Taps) -> np.ndarray:
    """Returns the resized levels, float32 [h, w, 3], with the rounding of float32."""

    def between(pixels: np.ndarray, taps: _Taps, axis: int) -> np.ndarray:
        first, second = pixels.take(taps.low, axis), pixels.take(taps.high, axis)
        second -= first
        second *= taps.weight.astype(np.float32).reshape(-1, *(1,) * (2 - axis))
        second += first
        return second

    return between(between(image.astype(np.float32), columns, 1), rows, 0)


def _resize_exactly(
    image: np.ndarray, rows: _Taps, columns: _Taps, y: np.ndarray, x: np.ndarray, channel: np.ndarray
) -> np.ndarray:
    """Returns single values of the published square: normalized, resized with the operations of PyTorch's kernel for one
    thread, which multiplies and adds in one rounding, and truncated."""
    mean, std = MEAN[channel], STD[channel]
    value = lambda row, column: (image[row[y], column[x], channel] / 255 - mean) / std
    bottom, right = rows.weight[y], columns.weight[x]
    top, left = 1 - bottom, 1 - right
    total = value(rows.low, columns.high) * (top * right)
    total = _fused_multiply_add(value(rows.low, columns.low), top * left, total)
    total = _fused_multiply_add(value(rows.high, columns.low), bottom * left, total)
    total = _fused_multiply_add(value(rows.high, columns.high), bottom * right, total)
    return ((total * std + mean) * 255).astype(np.uint8)


def _fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns a * b + c with one rounding: the errors of the product (Dekker) and of the sum (Knuth) are added last."""
    product, (a_high, a_low), (b_high, b_low) = a * b, _split(a), _split(b)
    product_error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total = product + c
    part = total - product
    return total + (product_error + ((product - (total - part)) + (c - part)))


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits float64 numbers into two parts of half the precision, whose products are exact."""
    scaled = 134217729.0 * values  # 2**27 + 1
    high = scaled - (scaled - values)
    return high, values - high


@dataclasses.dataclass(frozen=True)
class Regions:
    """The regions of a training image. boxes: left, top, right, bottom in pixels. texts: one for each box. masks: None if the
    reader gives none."""

    boxes: Float64[np.ndarray, "R 4"]
    texts: tuple[str, ...]
    masks: Bool[np.ndarray, "R H W"] | None = None


def shuffle_regions(prompt: Prompt, rng: np.random.Generator) -> Regions:
    """Returns the regions of a caption prompt in random order, each with a random one of its texts. Raises UserError if a
    region has no box, or no text."""
    if len(prompt.captions) != len(prompt.regions) or not all(prompt.captions):
        raise UserError("a region of a caption prompt has no text; its reader must return Prompt.captions")
    if any(len(region.boxes) != 1 for region in prompt.regions):
        raise UserError("a region has no box, and captions are trained on boxes; read them with mark='box'")
    order = rng.permutation(len(prompt.regions))
    boxes = np.array([prompt.regions[k].boxes[0] for k in order]).reshape(-1, 4)
    texts = tuple(prompt.captions[k][int(rng.integers(len(prompt.captions[k])))] for k in order)
    return Regions(boxes, texts, None if prompt.masks is None else prompt.masks[order, 0])


def augment(
    image: UInt8[np.ndarray, "H W 3"],
    prompt: Prompt,
    rng: np.random.Generator,
    *,
    side: int,
    scale: tuple[float, float] | None,
    most: int,
) -> tuple[UInt8[np.ndarray, "H W 3"], Regions]:
    """Prepares a training image: shuffles its regions, jitters the image, and keeps the first regions that are still visible.

    side: of the square. scale: (minimum, maximum) of the jitter, (0.1, 2.0) as published; None: the image is not changed. most:
    the largest number of regions, 16 as published. Flips are those of data/augment, which come first. Returns the image, the
    square if it was jittered, and at most `most` regions, possibly none.
    """
    regions = shuffle_regions(prompt, rng)
    size, boxes, masks = (image.shape[0], image.shape[1]), regions.boxes, regions.masks
    if scale is not None:
        jitter = Jitter(rng.uniform(*scale), rng.random(), side)
        image, boxes, size = jitter.image(image), jitter.boxes(boxes, size), (side, side)
        masks = None if masks is None else jitter.masks(masks)
    boxes = clip_boxes(boxes, size)
    kept = nonempty_boxes(boxes)[:most]
    return image, Regions(boxes[kept], tuple(regions.texts[k] for k in kept), None if masks is None else masks[kept])
