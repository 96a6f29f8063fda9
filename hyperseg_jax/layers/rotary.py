"""Rotary position embedding on the first dimensions of each head (Su et al. 2021; transformers' PhiRotaryEmbedding)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotary_angles(positions: jax.Array, dims: int, theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of positions [..., L] -> two float32 arrays [..., L, 1, dims], to broadcast over heads."""
    if dims % 2:
        raise ValueError(f"rotary dimensions come in pairs, got {dims} of a head: choose another rotary_fraction")
    frequencies = 1.0 / theta ** (jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the first `dims` of x [..., L, heads, D] by the angles; halves are paired, the rest passes through."""
    cosine, sine = angles
    dims = cosine.shape[-1]
    turned, passed = x[..., :dims].astype(jnp.float32), x[..., dims:]
    first, second = jnp.split(turned, 2, axis=-1)
    turned = turned * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([turned.astype(x.dtype), passed], axis=-1)
