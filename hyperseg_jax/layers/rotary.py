"""Rotary position embedding on the first dimensions of each head (Su et al. 2021; transformers' PhiRotaryEmbedding)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax.structs import DeviceArray

CosSin = tuple[Float32[jax.Array, "*B L 1 R"], Float32[jax.Array, "*B L 1 R"]]
"""Cosines and sines of R dimensions, broadcast over heads."""


def rotary_angles(positions: Int[DeviceArray, "*B L"], dims: int, theta: float = 10000.0) -> CosSin:
    """Returns cosines and sines of the rotation angles of `dims` dimensions."""
    if dims % 2:
        raise ValueError(f"the number of rotary dimensions per head must be even, got {dims}: change rotary_fraction")
    frequencies = 1.0 / theta ** (jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[DeviceArray, "*B L heads D"], cos_sin: CosSin) -> Float[jax.Array, "*B L heads D"]:
    """Applies rotary embeddings to the first R dimensions of each head, pairing dimensions i and i + R / 2.

    cos_sin: from rotary_angles; R is its last axis. The other D - R dimensions are unchanged.
    """
    cosine, sine = cos_sin
    dims = cosine.shape[-1]
    rotated, unchanged = x[..., :dims].astype(jnp.float32), x[..., dims:]
    first, second = jnp.split(rotated, 2, axis=-1)
    rotated = rotated * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([rotated.astype(x.dtype), unchanged], axis=-1)
