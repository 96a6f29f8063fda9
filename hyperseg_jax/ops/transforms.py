"""Resizes images and masks to the input sizes of the encoders. uint8 in, uint8 out; the device normalizes."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The placement of an image in the padded input of a model: (height, width) of the original image, of the filled part, and
    of the padded input."""

    original: tuple[int, int]
    filled: tuple[int, int]
    padded: tuple[int, int]


def fit_to_square(height: int, width: int, size: int, fill: float = 1.0) -> Geometry:
    """Returns the placement of an image whose long edge is scaled to `fill` (at most 1) times `size`, keeping the aspect ratio.
    The sides are int(x + 0.5)."""
    scale = fill * size / max(height, width)
    filled = (min(size, int(height * scale + 0.5)), min(size, int(width * scale + 0.5)))
    return Geometry((height, width), (max(1, filled[0]), max(1, filled[1])), (size, size))


@dataclasses.dataclass(frozen=True)
class SideRule:
    """Scales the short side of an image to `short` pixels or, if the long side would be longer than `long`, that one to `long`.

    Inputs of models are static, so the padded input is one of a few canvases: those of images of the common aspect ratios, with
    sides that are multiples of `multiple`. truncated: whether sides are rounded down, as in torchvision, instead of to the
    nearest pixel, as in detectron2.
    """

    short: int
    long: int
    multiple: int = 32
    truncated: bool = False

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of a resized image."""
        low, high = sorted((height, width))
        half = 0.0 if self.truncated else 0.5
        short, long = float(self.short), self.short * high / low
        if self.truncated:
            long = float(int(long))
        if long > self.long:
            short, long = self.long * short / long, float(self.long)
        sides = max(1, int(short + half)), int(long + half)
        return sides if height <= width else sides[::-1]

    def canvases(self) -> tuple[tuple[int, int], ...]:
        """Returns (height, width) of all canvases, the smallest first. The last ones hold every resized image."""
        fit = lambda sides: tuple(-(-side // self.multiple) * self.multiple for side in sides)
        wide = [self.resized(low, high) for high, low in ASPECTS] + [(self.short, self.long)]
        sizes = {fit(sides) for sides in wide} | {fit(sides[::-1]) for sides in wide}
        return tuple(sorted(((height, width) for height, width in sizes), key=lambda size: (size[0] * size[1], size)))

    def place(self, height: int, width: int, canvas: tuple[int, int] | None = None) -> Geometry:
        """Returns the placement of an image on a canvas; None: on the smallest that holds it."""
        filled = self.resized(height, width)
        fits = (size for size in self.canvases() if filled[0] <= size[0] and filled[1] <= size[1])
        return Geometry((height, width), filled, canvas or next(fits))


ASPECTS = ((1, 1), (4, 3), (3, 2), (128, 85), (16, 9), (2, 1), (3, 1), (4, 1))
"""The aspect ratios of canvases: those of most images. 128:85 is that of 3:2 images whose sides were rounded, such as 640 x
426."""


def resize_and_pad(
    frame: UInt8[np.ndarray, "H W 3"], geometry: Geometry, value: int, *, bicubic: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes a frame, by default bilinearly, and pads it right and bottom with a value."""
    height, width = geometry.filled
    padded = np.full((*geometry.padded, 3), value, np.uint8)
    if frame.shape[:2] != (height, width):
        resampling = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        frame = np.asarray(Image.fromarray(frame).resize((width, height), resampling))
    padded[:height, :width] = frame
    return padded


def resize_and_pad_map(numbers: Shaped[np.ndarray, "*planes H W"], geometry: Geometry) -> Shaped[np.ndarray, "*planes h w"]:
    """Resizes segment maps by nearest neighbour, like Pillow, and pads them with 0."""
    height, width = geometry.filled
    rows, columns = _nearest_indices(numbers.shape[-2], height), _nearest_indices(numbers.shape[-1], width)
    padded = np.zeros((*numbers.shape[:-2], *geometry.padded), numbers.dtype)
    padded[..., :height, :width] = numbers.take(columns, axis=-1).take(rows, axis=-2)
    return padded


def _nearest_indices(size: int, target: int) -> np.ndarray:
    """Returns the source index of each of `target` pixels when resizing a line of `size` pixels."""
    line = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    return np.asarray(line.resize((target, 1), Image.Resampling.NEAREST))[0]


def stretch_to_square(frame: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes a frame to a square: bicubic, without keeping the aspect ratio (the SigLIP processor)."""
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))


def stretch_mask_to_square(mask: Bool[np.ndarray, "H W"], size: int) -> Bool[np.ndarray, "size size"]:
    """Resizes a mask like `stretch_to_square`; a nonempty mask stays nonempty."""
    resized = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)) > 0
    if mask.any() and not resized.any():
        y, x = (round(float(c.mean()) * size / n) for c, n in zip(np.nonzero(mask), mask.shape, strict=True))
        resized[min(y, size - 1), min(x, size - 1)] = True
    return resized
