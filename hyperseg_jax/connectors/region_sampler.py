"""Drawn regions -> one token each: the mean of image features over what the region covers (HyperSeg's region_pooling).

The published sampler draws random repeats of the covered cells; here it is their plain mean, which is what those draws
fluctuate around, unless the points are given.
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
    """Image features -> one feature for each region. It has no parameters."""

    def __call__(
        self,
        features: Float[DeviceArray, "B N D"],
        masks: Bool[DeviceArray, "B *R H W"],
        valid: Bool[DeviceArray, " B *R"],
        points: Float[DeviceArray, "B *R S 2"] | None = None,
    ) -> Float[jax.Array, "B *R D"]:
        """features: of a grid of N = g * g cells. *R is R regions or K prompts of R regions.

        A mask covers a cell of the grid where any of its pixels falls into it. points: (x, y) in 0..1 with the outermost cells'
        centres at 0 and 1 (align_corners=True); taken in place of the covered cells' points. An invalid region, and one that
        covers nothing, gives zeros.
        """
        _, tokens, width = features.shape
        grid = round(tokens**0.5)
        if grid * grid != tokens:
            raise ValueError(f"region features come from a square grid, got {tokens} tokens")
        if points is None:
            weights = _cell_weights(covered_cells(masks, grid))
        else:
            along_x, along_y = (_hat(points[..., i] * (grid - 1), grid) for i in (0, 1))  # [B, ..., S, g]
            weights = jnp.einsum("...sy,...sx->...yx", along_y, along_x, precision="highest") / points.shape[-2]
        weights = rearrange(jnp.where(valid[..., None, None], weights, 0), "b ... y x -> b (...) (y x)")
        pooled = jnp.einsum("brn,bnd->brd", weights, features.astype(jnp.float32), precision="highest")
        return pooled.astype(features.dtype).reshape(*valid.shape, width)


def covered_cells(masks: Bool[DeviceArray, "*R H W"], grid: int) -> Bool[jax.Array, "*R {grid} {grid}"]:
    """The cells floor(grid * y / H), floor(grid * x / W) of the masks' pixels."""
    height, width = masks.shape[-2:]
    rows, columns = (np.eye(grid, dtype=np.float32)[np.arange(n) * grid // n] for n in (height, width))  # [n, grid]
    counts = jnp.einsum("...hw,hy,wx->...yx", masks.astype(jnp.float32), rows, columns, precision="highest")
    return counts > 0.5


def _cell_weights(covered: Bool[DeviceArray, "*R g g"]) -> Float[jax.Array, "*R g g"]:
    """Weights of the features for the mean over covered cells.

    A cell c stands for its corner c / g, which align_corners=True reads at c * (g - 1) / g: between two cells.
    """
    grid = covered.shape[-1]
    spread = _hat(jnp.arange(grid, dtype=jnp.float32) * (grid - 1) / grid, grid)
    weights = jnp.einsum("...cd,cy,dx->...yx", covered.astype(jnp.float32), spread, spread, precision="highest")
    return weights / jnp.maximum(covered.sum((-2, -1), keepdims=True), 1)


def _hat(position: Float[DeviceArray, "*R"], grid: int) -> Float[jax.Array, "*R {grid}"]:
    """Linear interpolation weights of positions in cells; float32."""
    return jnp.maximum(1 - jnp.abs(position.astype(jnp.float32)[..., None] - jnp.arange(grid)), 0)
