"""Arrays with more or fewer entries of an axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from hyperseg_jax.structs import DeviceArray


def fit_axis(x: Shaped[DeviceArray, "*_"], axis: int, size: int, filler: float = 0) -> Shaped[jax.Array, "*_"]:
    """Pads an axis to `size` entries with `filler`, or drops its last entries."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, max(size - x.shape[axis], 0))
    return jax.lax.slice_in_dim(jnp.pad(x, widths, constant_values=filler), 0, size, axis=axis)
