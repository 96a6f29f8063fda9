"""Masks as segment maps: at each pixel the number of a mask. Masks that overlap lie in different planes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Integer


def number_masks(
    masks: Iterable[Bool[np.ndarray, "*shape"]], dtype: type
) -> tuple[list[Integer[np.ndarray, "*shape"]], list[int]]:
    """(maps, planes) of masks, all of one shape, such as [T, H, W].

    maps: one array of that shape for each plane, n + 1 where mask n is, else 0; as few planes as putting each mask, in order,
    into the first one with room takes. planes: the plane of each mask.
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
