"""Where the mask losses look: random points, more of them where a prediction is uncertain (PointRend, Kirillov et al. 2020)."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray, Shaped, UInt

from hyperseg_jax import axes
from hyperseg_jax.ops.sampling import bilinear_corners, grid_sample, resize_bilinear
from hyperseg_jax.structs import DeviceArray


@flax.struct.dataclass
class PointDraws:
    """Uniform draws in 0..1 as (x, y), with a leading axis over the predictions (decoder stages), or of one of these.

    matching: shared by all queries and targets of a row.
    candidates: among which the most uncertain are kept; M = N gives each target its own, M = 1 shares them.
    fresh: P less those that are kept, used as they are.
    """

    matching: Float[DeviceArray, "*stages B P 2"]
    candidates: Float[DeviceArray, "*stages B M tried 2"]
    fresh: Float[DeviceArray, "*stages B M fresh 2"]


def draw_points(
    key: PRNGKeyArray, stages: int, rows: int, sets: int, num_points: int, oversample: float = 3.0, importance: float = 0.75
) -> PointDraws:
    """Draws for a batch. sets: M. Of num_points, the share `importance` is chosen from oversample * num_points candidates."""
    kept, tried = int(importance * num_points), int(oversample * num_points)
    # One draw for all three, because every call of the generator is a program of its own to compile.
    drawn = jax.random.uniform(key, (stages, rows, num_points + sets * (tried + num_points - kept), 2))
    drawn = axes.constrain(drawn, None, "batch", None, None)
    matching, candidates, fresh = jnp.split(drawn, (num_points, num_points + sets * tried), axis=2)
    own = (stages, rows, sets, -1, 2)
    return PointDraws(matching, candidates.reshape(own), fresh.reshape(own))


def sample_masks(masks: Shaped[DeviceArray, "B N h w"], points: Float[DeviceArray, "B M P 2"]) -> Float32[jax.Array, "B N P"]:
    """Bilinear values of masks at points.

    points: M = 1: one gathered row serves all masks of the image; M = N: each mask has its own points.
    """
    batch, number, height, width = masks.shape
    if points.shape[1] == 1:
        return grid_sample(masks.transpose(0, 2, 3, 1), points[:, 0]).transpose(0, 2, 1).astype(jnp.float32)
    alone = masks.reshape(batch * number, height, width, 1)
    sampled = grid_sample(alone, points.reshape(batch * number, *points.shape[2:]))
    return sampled.reshape(batch, number, points.shape[2]).astype(jnp.float32)


def sample_segments(
    segments: UInt[DeviceArray, "B planes h w"], planes: Int[DeviceArray, "B N"], points: Float[DeviceArray, "B M P 2"]
) -> Float32[jax.Array, "B N P"]:
    """Bilinear values of the masks of segment maps at points: what sample_masks gives for the masks, none of which is made.

    segments, planes: as in MaskTargets. points: M = 1: the masks of a row share them; M = N: each has its own.
    """
    batch, _, height, width = segments.shape
    number = jnp.arange(1, planes.shape[1] + 1)
    cells, weights = bilinear_corners(points, (height, width))  # [B, M, 4, P]
    look_up = jax.vmap(lambda table, index: jnp.take(table, index, axis=0, mode="clip"))
    if points.shape[1] == 1:
        found = look_up(segments.reshape(batch, -1, height * width).transpose(0, 2, 1), cells)  # [B, 1, 4, P, planes]
        inside = (found == number[:, None, None, None]).any(-1)
    else:
        found = look_up(segments.reshape(batch, -1), planes[..., None, None] * (height * width) + cells)
        inside = found == number[:, None, None]
    return jnp.where(inside, weights, 0.0).sum(-2)


def sample_cells(masks: Shaped[DeviceArray, "B N h w"], size: tuple[int, int]) -> Float32[jax.Array, "B N {size[0]}*{size[1]}"]:
    """Bilinear values of masks at the cell centres of a grid (rows, columns)."""
    resized = masks.astype(jnp.float32)
    if masks.shape[2:] != size:
        resized = resize_bilinear(resized.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
    return resized.reshape(*masks.shape[:2], -1)


def uncertain_points(
    logits: Float[DeviceArray, "B N h w"],
    valid: Bool[DeviceArray, "B N"],
    candidates: Float[DeviceArray, "B M tried 2"],
    fresh: Float[DeviceArray, "B M fresh 2"],
    num_points: int,
) -> Float[jax.Array, "B M {num_points} 2"]:
    """The candidates whose logits are nearest to zero, then the fresh points.

    valid: shared points (M = 1) go where any valid mask is uncertain. As in Mask2Former no
    gradient flows through the choice.
    """
    kept = num_points - fresh.shape[-2]
    if not kept:
        return fresh
    uncertainty = -jnp.abs(sample_masks(jax.lax.stop_gradient(logits), candidates))  # [B, N, P']
    if candidates.shape[1] == 1:
        uncertainty = jnp.max(jnp.where(valid[..., None], uncertainty, -jnp.inf), axis=1, keepdims=True)
    rows = ("batch", None, None)  # top_k is no operation that the compiler splits by itself
    chosen = axes.map_shards(lambda x: jax.lax.top_k(x, kept)[1], rows, out=rows)(uncertainty)
    return jnp.concatenate([jnp.take_along_axis(candidates, chosen[..., None], axis=2), fresh], axis=2)
