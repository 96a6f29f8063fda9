"""Merges several masks of one frame into one object map, as DAVIS requires, and encodes it as DAVIS does."""

from __future__ import annotations

import functools
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def merge_soft(masks: np.ndarray) -> np.ndarray:
    """Returns int [H, W]: the most probable object of each pixel, from 1; 0 if background is more probable.

    masks: probabilities [N, H, W]. The background probability is the product of 1 - masks (InstructSeg's Ref-DAVIS script).
    """
    background = np.prod(1 - masks, axis=0, keepdims=True)
    return np.concatenate([background, masks]).argmax(0)


def merge_hard(masks: np.ndarray) -> np.ndarray:
    """Returns int [H, W]: the last object, from 1, whose bool mask [N, H, W] covers the pixel; 0 if none does."""
    numbers = np.zeros(masks.shape[1:], int)
    for k, mask in enumerate(masks, 1):
        numbers[mask] = k
    return numbers


@functools.cache
def davis_palette() -> bytes:
    """Returns the colours of the object ids 0 to 255 in DAVIS (those of Pascal VOC): red, green, blue of each."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()


def encode_ids(ids: UInt8[np.ndarray, "H W"]) -> bytes:
    """Encodes an object map as PNG with the palette of DAVIS."""
    image, buffer = Image.fromarray(ids), io.BytesIO()
    image.putpalette(davis_palette())
    image.save(buffer, format="PNG")
    return buffer.getvalue()
