"""Pools each visual-prompt region to one token: the mean of image features over the region (HyperSeg's region_pooling).

The published sampler draws covered cells at random; here the result is their exact mean, the expectation of these draws,
unless points are given.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

from hyperseg_jax.structs import DeviceArray


class RegionSampler(nn.Module):
    """Pools image features to one feature for each region. It has no parameters."""

    def __call__(
        self,
        features: Float[DeviceArray, "B N D"],
        masks: Bool[DeviceArray, "B *R H W"],
        valid: Bool[DeviceArray, " B *R"],
        points: Float[DeviceArray, "B *R S 2"] | None = None,
    ) -> Float[jax.Array, "B *R D"]:
        """Pools features over regions.

        features: a square grid of N = g * g cells. *R is R regions or K prompts of R regions.

        A mask covers a cell if it contains any pixel of the cell. points: (x, y) in 0..1 with the centers of the outermost
        cells at 0 and 1 (align_corners=True), used instead of the covered cells. Invalid and empty regions give zeros.
        """
        _, tokens, width = features.shape
        grid = round(tokens**0.5)
        if grid * grid != tokens:
            raise ValueError(f"region features need a square grid, got {tokens} tokens")
        if points is None:
            weights = _cell_weights(covered_cells(masks, grid))
        else:
            x_weights, y_weights = (_interpolation_weights(points[..., i] * (grid - 1), grid) for i in (0, 1))  # [B, ..., S, g]
            weights = jnp.einsum("...sy,...sx->...yx", y_weights, x_weights, precision="highest") / points.shape[-2]
        weights = rearrange(jnp.where(valid[..., None, None], weights, 0), "b ... y x -> b (...) (y x)")
        pooled = jnp.einsum("brn,bnd->brd", weights, features.astype(jnp.float32), precision="highest")
        return pooled.astype(features.dtype).reshape(*valid.shape, width)


def covered_cells(masks: Bool[DeviceArray, "*R H W"], grid: int) -> Bool[jax.Array, "*R {grid} {grid}"]:
    """Returns the cells floor(grid * y / H), floor(grid * x / W) that contain pixels of the masks."""
    height, width = masks.shape[-2:]
    rows, columns = (np.eye(grid, dtype=np.float32)[np.arange(n) * grid // n] for n in (height, width))  # [n, grid]
    counts = jnp.einsum("...hw,hy,wx->...yx", masks.astype(jnp.float32), rows, columns, precision="highest")
    return counts > 0.5


def _cell_weights(covered: Bool[DeviceArray, "*R g g"]) -> Float[jax.Array, "*R g g"]:
    """Returns feature weights for the mean over covered cells.

    A cell c is sampled at its corner c / g, which is c * (g - 1) / g with align_corners=True, between two cells.
    """
    grid = covered.shape[-1]
    spread = _interpolation_weights(jnp.arange(grid, dtype=jnp.float32) * (grid - 1) / grid, grid)
    weights = jnp.einsum("...cd,cy,dx->...yx", covered.astype(jnp.float32), spread, spread, precision="highest")
    return weights / jnp.maximum(covered.sum((-2, -1), keepdims=True), 1)


def _interpolation_weights(position: Float[DeviceArray, "*R"], grid: int) -> Float[jax.Array, "*R {grid}"]:
    """Returns float32 linear interpolation weights of positions in units of cells."""
    return jnp.maximum(1 - jnp.abs(position.astype(jnp.float32)[..., None] - jnp.arange(grid)), 0)
