"""Rotary position embedding on the first dimensions of each head (Su et al. 2021; transformers' PhiRotaryEmbedding)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax.structs import DeviceArray

Angles = tuple[Float32[jax.Array, "*B L 1 R"], Float32[jax.Array, "*B L 1 R"]]
"""Cosines and sines of R dimensions, to broadcast over heads."""


def rotary_angles(positions: Int[DeviceArray, "*B L"], dims: int, theta: float = 10000.0) -> Angles:
    """Of `dims` dimensions."""
    if dims % 2:
        raise ValueError(f"rotary dimensions come in pairs, got {dims} of a head: choose another rotary_fraction")
    frequencies = 1.0 / theta ** (jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[DeviceArray, "*B L heads D"], angles: Angles) -> Float[jax.Array, "*B L heads D"]:
    """Turns the first R of the D dimensions by the angles; halves are paired, the rest passes through."""
    cosine, sine = angles
    dims = cosine.shape[-1]
    turned, passed = x[..., :dims].astype(jnp.float32), x[..., dims:]
    first, second = jnp.split(turned, 2, axis=-1)
    turned = turned * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([turned.astype(x.dtype), passed], axis=-1)
