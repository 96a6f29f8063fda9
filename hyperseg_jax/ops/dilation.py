"""Dilation of masks."""

from __future__ import annotations

import numpy as np


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
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
