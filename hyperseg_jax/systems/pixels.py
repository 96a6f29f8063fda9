"""Normalization of pixels, as the published systems have it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int, UInt8

from hyperseg_jax.structs import DeviceArray

GREY = 128
"""Padding value of the mask branch; the releases pad before normalizing."""
# ImageNet statistics on 0..255 for the mask branch; the language branch uses -1..1.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def normalize_for_masks(images: UInt8[DeviceArray, "*B H W 3"]) -> Float32[jax.Array, "*B H W 3"]:
    """Normalizes uint8 pixels for the mask branch, on the device."""
    return (images.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)


def normalize_padded(images: UInt8[DeviceArray, "B H W 3"], filled: Int[DeviceArray, "B 2"]) -> Float32[jax.Array, "B H W 3"]:
    """Normalizes uint8 pixels for systems that pad after normalizing: outside of `filled` (height, width) the result is 0."""
    rows, columns = (jnp.arange(images.shape[axis + 1]) < filled[:, axis, None] for axis in (0, 1))
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], normalize_for_masks(images), 0.0)


def normalize_for_llm(images: UInt8[DeviceArray, "*B H W 3"]) -> Float32[jax.Array, "*B H W 3"]:
    """Normalizes uint8 pixels for the language branch, to -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1
