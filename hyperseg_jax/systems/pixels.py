"""Normalization of pixels, as the published systems have it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float32, UInt8

from hyperseg_jax.structs import DeviceArray

GREY = 128
"""Padding value of the mask branch; the releases pad before normalizing."""
# ImageNet statistics on 0..255 for the mask branch; the language branch uses -1..1.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def normalize_for_masks(images: UInt8[DeviceArray, "*B H W 3"]) -> Float32[jax.Array, "*B H W 3"]:
    """Normalizes uint8 pixels for the mask branch, on the device."""
    return (images.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)


def normalize_for_llm(images: UInt8[DeviceArray, "*B H W 3"]) -> Float32[jax.Array, "*B H W 3"]:
    """Normalizes uint8 pixels for the language branch, to -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1
