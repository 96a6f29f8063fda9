"""Segment maps: arrays with the number of a mask at each pixel. Overlapping masks are in different planes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Integer


def number_masks(
    masks: Iterable[Bool[np.ndarray, "*shape"]], dtype: type
) -> tuple[list[Integer[np.ndarray, "*shape"]], list[int]]:
    """Returns (maps, planes) of masks of one shape, such as [T, H, W].

    maps: one array of this shape for each plane, n + 1 at pixels of mask n, else 0; each mask, in order, is put into the first
    plane where it overlaps no other. planes: the plane of each mask.
    """
    maps: list[np.ndarray] = []
    planes = []
    for n, mask in enumerate(masks):
        plane = next((p for p, numbers in enumerate(maps) if not numbers[mask].any()), len(maps))
        if plane == len(maps):
            maps.append(np.zeros(mask.shape, dtype))
        maps[plane][mask] = n + 1
        planes.append(plane)
    return maps, planes
