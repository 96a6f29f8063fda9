"""Fixed position embeddings of feature maps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float32


def sine_positions(height: int, width: int, channels: int) -> Float32[jax.Array, "H W C"]:
    """Returns the normalized 2D sine embedding: the first half of the channels encodes y, the second x.

    channels must be a multiple of 4.
    Corresponds to PositionEmbeddingSine(normalize=True) of DETR and Mask2Former (temperature 10000, scale 2 pi)
    without padding mask.
    """
    return jnp.asarray(_sine_positions(height, width, channels))


@functools.lru_cache(maxsize=64)
def _sine_positions(height: int, width: int, channels: int) -> np.ndarray:
    if channels % 4:
        raise ValueError(f"sine positions need a multiple of 4 channels, not {channels}")
    half = channels // 2
    frequency = 10000.0 ** (2 * (np.arange(half) // 2) / half)

    def axis(cells: int) -> np.ndarray:  # [cells, half]
        position = np.arange(1, cells + 1) / (cells + 1e-6) * 2 * np.pi
        angle = position[:, None] / frequency
        return rearrange([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], "wave cells pairs -> cells (pairs wave)")

    y = np.broadcast_to(axis(height)[:, None], (height, width, half))
    x = np.broadcast_to(axis(width)[None, :], (height, width, half))
    return np.concatenate([y, x], axis=-1).astype(np.float32)
