"""The cross-entropy of pixels, for classes that are predicted on a coarser grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax.structs import IGNORED, DeviceArray

ROWS = 64
"""Maximum number of pixel rows whose logits are computed at once."""


def pixel_cross_entropy(
    logits: Float[DeviceArray, "B h w C"],
    labels: Int[DeviceArray, "B H W"],
    rows: Float[DeviceArray, "B H h"],
    columns: Float[DeviceArray, "B W w"],
) -> Float32[jax.Array, " B"]:
    """Returns the cross-entropy of each image, summed over its pixels. labels: IGNORED where none is supervised.

    rows, columns: the matrices that resize the logits to the pixels. The resized logits would be the largest array of a step;
    they are computed for some rows at a time, also in the backward pass.
    """
    height = labels.shape[1]
    count = max(n for n in range(1, min(ROWS, height) + 1) if height % n == 0)
    wide = jnp.einsum("bWw,bhwc->bhWc", columns, logits.astype(jnp.float32), precision="highest")

    def of_rows(given: tuple[Float[jax.Array, "B n h"], Int[jax.Array, "B n W"]]) -> Float32[jax.Array, " B"]:
        some, target = given
        resized = jnp.einsum("bnh,bhWc->bnWc", some, wide, precision="highest")
        chosen = jnp.take_along_axis(resized, jnp.maximum(target, 0).astype(jnp.int32)[..., None], axis=-1)[..., 0]
        loss = jax.nn.logsumexp(resized, axis=-1) - chosen
        return jnp.where(target != IGNORED, loss, 0).sum((1, 2))

    split = lambda x: jnp.moveaxis(x.reshape(x.shape[0], height // count, count, *x.shape[2:]), 1, 0)
    return jax.lax.map(jax.checkpoint(of_rows, prevent_cse=False), (split(rows), split(labels))).sum(0)
