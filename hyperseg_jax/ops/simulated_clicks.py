"""The next click of a simulated user, on the device (SEEM's training and evaluation; the distance transform of kornia 0.7)."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from hyperseg_jax.structs import DeviceArray

SMOOTHNESS = 0.35
"""kornia's h: the distance is -h log(sum of exp(-distance / h))."""
GOOD_ENOUGH = 0.925
"""IoU from which the user does not click any more."""


@flax.struct.dataclass
class Clicks:
    """A click for each of N objects. positive: on a missing part; else on a part that is too much. wanted: False where the
    prediction is good enough."""

    row: Int32[DeviceArray, "*B N"]
    column: Int32[DeviceArray, "*B N"]
    positive: Bool[DeviceArray, "*B N"]
    wanted: Bool[DeviceArray, "*B N"]


def choose_clicks(
    predicted: Bool[DeviceArray, "N H W"],
    targets: Bool[DeviceArray, "N H W"],
    positive: Bool[DeviceArray, "N H W"],
    negative: Bool[DeviceArray, "N H W"],
) -> Clicks:
    """Returns the next click for each object: in the middle of the pixels that are missing from the prediction, or of those
    that are too much (negative), of whichever there are more; pixels that are marked already do not count. positive, negative:
    pixels marked so far."""
    missing = targets & ~predicted & ~positive & ~negative
    surplus = predicted & ~targets & ~positive & ~negative
    is_positive = missing.sum((1, 2)) > surplus.sum((1, 2))
    wrong = jnp.where(is_positive[:, None, None], missing, surplus)
    depth = distance_inside(jnp.pad(wrong, ((0, 0), (1, 1), (1, 1))))[:, 1:-1, 1:-1]
    row, column = jnp.divmod(jnp.argmax(depth.reshape(len(depth), -1), axis=1), wrong.shape[2])
    overlap, union = (predicted & targets).sum((1, 2)), (predicted | targets).sum((1, 2))
    return Clicks(row.astype(jnp.int32), column.astype(jnp.int32), is_positive, overlap < GOOD_ENOUGH * union)


def add_squares(
    clicks: Clicks, positive: Bool[DeviceArray, "N H W"], negative: Bool[DeviceArray, "N H W"]
) -> tuple[Bool[jax.Array, "N H W"], Bool[jax.Array, "N H W"]]:
    """Returns the marked pixels with a square of 3 x 3 pixels more for each wanted click."""
    near = lambda size, center: jnp.abs(jnp.arange(size) - center[:, None]) <= 1
    square = near(positive.shape[1], clicks.row)[:, :, None] & near(positive.shape[2], clicks.column)[:, None, :]
    square &= clicks.wanted[:, None, None]
    chosen = clicks.positive[:, None, None]
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
