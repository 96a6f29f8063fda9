"""The EXIF orientation of an image file, which tells how its stored pixels are turned to be upright."""

from __future__ import annotations

import struct

import numpy as np
from jaxtyping import Shaped

UPRIGHT = 1
ORIENTATION, SHORT = 0x0112, 3
"""The EXIF tag, and the type of its value."""
PREFIX = b"Exif\0\0"
TAGS = 1000
"""Maximum number of tags that are searched."""


def parse_orientation(exif: bytes) -> int:
    """Returns the orientation (1 to 8) that EXIF data gives; UPRIGHT if it gives none, or is damaged."""
    data = exif.removeprefix(PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return UPRIGHT
    (offset,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data[offset : offset + 2].ljust(2, b"\0"))
    entry = struct.Struct(order + "HHLH2x")
    entries = data[offset + 2 : offset + 2 + entry.size * min(count, TAGS)]
    for tag, kind, number, value in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
        if tag == ORIENTATION:
            return value if (kind, number) == (SHORT, 1) and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def turn_upright(pixels: Shaped[np.ndarray, "H W *C"], orientation: int) -> Shaped[np.ndarray, "H2 W2 *C"]:
    """Returns stored pixels as they are to be shown. orientation: from `parse_orientation`."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
