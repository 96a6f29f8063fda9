"""Dilation of masks."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool


def dilate(mask: Bool[np.ndarray, "H W"], radius: int) -> Bool[np.ndarray, "H W"]:
    """Returns all pixels within `radius` of the mask.

    Processes only the bounding box of the result, in about 4 * radius passes.
    """
    if radius < 1 or not mask.any():
        return mask
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = tuple(slice(max(0, int(line[0]) - radius), int(line[-1]) + radius + 1) for line in (rows, columns))
    padded = np.pad(mask[window], radius)
    dilated = np.zeros_like(mask)
    region = dilated[window]
    height, width = region.shape
    horizontal, reach = np.zeros((len(padded), width), bool), -1  # the mask, dilated horizontally by `reach`
    for dy in range(radius, -1, -1):
        while reach < math.isqrt(radius**2 - dy**2):
            reach += 1
            horizontal |= padded[:, radius - reach :][:, :width] | padded[:, radius + reach :][:, :width]
        region |= horizontal[radius - dy :][:height] | horizontal[radius + dy :][:height]
    return dilated
