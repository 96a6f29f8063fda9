"""Dilation of masks."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool


def dilate(mask: Bool[np.ndarray, "H W"], radius: int) -> Bool[np.ndarray, "H W"]:
    """Every pixel within `radius` of the mask.

    Only the surroundings of the mask are visited, row by row: about 4 * radius passes over them.
    """
    if radius < 1 or not mask.any():
        return mask
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = tuple(slice(max(0, int(line[0]) - radius), int(line[-1]) + radius + 1) for line in (rows, columns))
    padded = np.pad(mask[window], radius)
    grown = np.zeros_like(mask)
    here = grown[window]
    height, width = here.shape
    wide, reach = np.zeros((len(padded), width), bool), -1  # the mask, grown by `reach` to the left and the right
    for dy in range(radius, -1, -1):
        while reach < math.isqrt(radius**2 - dy**2):
            reach += 1
            wide |= padded[:, radius - reach :][:, :width] | padded[:, radius + reach :][:, :width]
        here |= wide[radius - dy :][:height] | wide[radius + dy :][:height]
    return grown
