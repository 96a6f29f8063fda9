"""Black and white images as masks. Their colours count, not the numbers of a palette, unless all of its colours are black.

A pixel belongs to the mask if it is not black. If the image also has values between black and white (JPEG, smooth edges) and
one above the middle of its range, a pixel belongs to the mask if it is above the middle.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from hyperseg_jax.untrusted.label_maps import check_labels

RANGES = 255, 65535
"""The value of white, with 8 and with 16 bits."""


def to_mask(image: Image.Image) -> tuple[Bool[np.ndarray, "H W"], bool]:
    """Returns the mask of an opened image, and whether it has values between black and white that were divided at the middle.

    Raises ValueError for images of colours; those of a palette count as white, unless they are black. Raises BadFile for
    negative values.
    """
    lossy = image.format == "JPEG"
    grey = _to_grey(image)
    values = np.flatnonzero(np.bincount(grey.reshape(-1))) if grey.dtype == np.uint8 else np.unique(grey)
    if values[-1] > RANGES[-1]:
        raise ValueError(f"it has the value {values[-1]}, and white is {RANGES[0]} or {RANGES[1]}")
    white = next(top for top in RANGES if values[-1] <= top)
    between = bool(np.setdiff1d(values, (0, white)).size)
    if lossy or (between and values[-1] > white // 2 and (len(values) > 2 or values[0])):
        return grey > white // 2, between
    return grey > 0, False


def _to_grey(image: Image.Image) -> Int[np.ndarray, "H W"]:
    """Returns the brightness of each pixel; transparent pixels are black."""
    image.load()
    mode, transparent = image.mode, image.has_transparency_data
    if mode == "F":
        raise ValueError("its values are no whole numbers (mode F), and a mask is black and white")
    if mode.startswith("I"):
        numbers = np.array(image)
        if numbers.dtype.kind == "i":
            check_labels(numbers)
        return np.where(numbers == image.info.get("transparency", -1), 0, numbers)
    if image.format == "JPEG" or (mode in ("1", "L") and not transparent):
        return np.asarray(image.convert("L"))
    if transparent:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    colours = np.asarray(image.convert("RGB"))
    if mode == "P" and not transparent and not colours.any() and np.ptp(np.asarray(image)):
        return np.asarray(image)  # a palette without colours
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    if mode not in ("P", "PA"):
        raise ValueError(f"it has colours (mode {mode}), and a mask is black and white")
    return np.where(colours.any(-1), RANGES[0], 0).astype(np.uint8)
