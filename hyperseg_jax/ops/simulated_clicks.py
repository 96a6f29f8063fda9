"""The next click of a simulated user, on the device (SEEM's training and evaluation; the distance transform of kornia 0.7)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from hyperseg_jax.structs import DeviceArray

SMOOTHNESS = 0.35
"""kornia's h: the distance is -h log(sum of exp(-distance / h))."""
GOOD_ENOUGH = 0.925
"""IoU from which the user does not click any more."""


def next_clicks(
    predicted: Bool[DeviceArray, "N H W"],
    targets: Bool[DeviceArray, "N H W"],
    positive: Bool[DeviceArray, "N H W"],
    negative: Bool[DeviceArray, "N H W"],
) -> tuple[Bool[jax.Array, "N H W"], Bool[jax.Array, "N H W"]]:
    """Returns the pixels marked so far, and a square of 3 x 3 pixels more for each object.

    It is in the middle of the pixels that are missing from the prediction, or of those that are too much (negative), of
    whichever there are more; pixels that are marked already do not count. positive, negative: pixels marked so far.
    """
    missing = targets & ~predicted & ~positive & ~negative
    surplus = predicted & ~targets & ~positive & ~negative
    is_positive = missing.sum((1, 2)) > surplus.sum((1, 2))
    wrong = jnp.where(is_positive[:, None, None], missing, surplus)
    depth = distance_inside(jnp.pad(wrong, ((0, 0), (1, 1), (1, 1))))[:, 1:-1, 1:-1]
    deepest = jnp.argmax(depth.reshape(len(depth), -1), axis=1)
    row, column = jnp.divmod(deepest, wrong.shape[2])
    near = lambda size, center: jnp.abs(jnp.arange(size) - center[:, None]) <= 1
    square = near(wrong.shape[1], row)[:, :, None] & near(wrong.shape[2], column)[:, None, :]
    overlap, union = (predicted & targets).sum((1, 2)), (predicted | targets).sum((1, 2))
    square &= (overlap < GOOD_ENOUGH * union)[:, None, None]
    chosen = is_positive[:, None, None]
    return positive | (square & chosen), negative | (square & ~chosen)


def distance_inside(region: Bool[DeviceArray, "N H W"]) -> Float32[jax.Array, "N H W"]:
    """Returns the approximate distance of each pixel of a region to the pixels outside of it; 0 outside."""
    offset = np.arange(-1, 2)
    kernel = np.exp(-np.hypot(offset[:, None], offset) / SMOOTHNESS).astype(np.float32)
    state = (jnp.float32(0), (~region).astype(jnp.float32), jnp.zeros(region.shape, jnp.float32), jnp.bool_(True))

    def grow(state: Any) -> Any:
        step, reached, distance, _ = state
        nearest = -SMOOTHNESS * jnp.log(_convolve(reached, kernel))
        new = (nearest > 0) & jnp.isfinite(nearest)
        distance = jnp.where(new, distance + jnp.floor(1.5 * step) + nearest, distance)
        return step + 1, jnp.where(new, 1.0, reached), distance, new.any()

    return jax.lax.while_loop(lambda state: state[3], grow, state)[2]


def _convolve(x: Float[DeviceArray, "N H W"], kernel: Float[np.ndarray, "3 3"]) -> Float[jax.Array, "N H W"]:
    """Correlates with a 3 x 3 kernel; the border is repeated."""
    h, w = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifted = (kernel[i, j] * padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3))
    return sum(shifted, jnp.zeros_like(x))
