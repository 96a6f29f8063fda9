"""Resizes 8-bit images exactly like OpenCV's cv2.resize with INTER_LINEAR, which works in fixed point and never smooths."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

_ONE = 1 << 11
"""The weight 1."""


def resize_linearly(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image at another size. The result equals that of OpenCV 5.0."""
    if image.shape[:2] == (height, width):
        return image
    left, right, of_left, of_right = _taps(image.shape[1], width, clamped=True)
    top, bottom, of_top, of_bottom = _taps(image.shape[0], height, clamped=False)
    rows, position = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    lines = image[rows].astype(np.int32)
    lines = (lines[:, left] * of_left[:, None] + lines[:, right] * of_right[:, None]) >> 4
    upper, lower = lines[position[:height]], lines[position[height:]]
    mixed = ((upper * of_top[:, None, None]) >> 16) + ((lower * of_bottom[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def _taps(old: int, new: int, *, clamped: bool) -> tuple[Int[np.ndarray, " {new}"], ...]:
    """Returns the two source pixels of each of `new` pixels, and their weights. clamped: whether pixels beyond the ends have
    the weight 1; otherwise both of their source pixels are the last one, and their weights are rounded separately."""
    position = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    share = position - first.astype(np.float32)
    if clamped:
        share[(first < 0) | (first >= old - 1)] = 0
    weights = (np.rint(part * np.float32(_ONE)).astype(np.int32) for part in (np.float32(1) - share, share))
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), *weights
