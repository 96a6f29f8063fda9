"""Point sampling for mask losses, with more points in uncertain regions (PointRend, Kirillov et al. 2020)."""

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
    """Uniform random points (x, y) in 0..1, with an optional leading axis over the decoder stages.

    matching: points of the matching costs, shared by all queries and targets of a row.
    candidates: points of which the most uncertain are selected; M = N for separate points of each target, M = 1 for shared.
    unselected: the remaining of the P points, which are used without selection.
    """

    matching: Float[DeviceArray, "*stages B P 2"]
    candidates: Float[DeviceArray, "*stages B M tried 2"]
    unselected: Float[DeviceArray, "*stages B M unselected 2"]


def draw_points(
    key: PRNGKeyArray, stages: int, rows: int, sets: int, num_points: int, oversample: float = 3.0, importance: float = 0.75
) -> PointDraws:
    """Draws points. sets: M. The share `importance` of num_points is selected from oversample * num_points candidates."""
    num_selected, tried = int(importance * num_points), int(oversample * num_points)
    # One call for all three, because every call of the generator is compiled separately.
    drawn = jax.random.uniform(key, (stages, rows, num_points + sets * (tried + num_points - num_selected), 2))
    drawn = axes.constrain(drawn, None, "batch", None, None)
    matching, candidates, unselected = jnp.split(drawn, (num_points, num_points + sets * tried), axis=2)
    shape = (stages, rows, sets, -1, 2)
    return PointDraws(matching, candidates.reshape(shape), unselected.reshape(shape))


def sample_masks(masks: Shaped[DeviceArray, "B N h w"], points: Float[DeviceArray, "B M P 2"]) -> Float32[jax.Array, "B N P"]:
    """Samples masks bilinearly at points.

    points: with M = 1, all masks of an image are sampled at the same points, in one gather; with M = N, each mask has its own.
    """
    batch, number, height, width = masks.shape
    if points.shape[1] == 1:
        return grid_sample(masks.transpose(0, 2, 3, 1), points[:, 0]).transpose(0, 2, 1).astype(jnp.float32)
    single = masks.reshape(batch * number, height, width, 1)
    sampled = grid_sample(single, points.reshape(batch * number, *points.shape[2:]))
    return sampled.reshape(batch, number, points.shape[2]).astype(jnp.float32)


def sample_segments(
    segments: UInt[DeviceArray, "B planes h w"], planes: Int[DeviceArray, "B N"], points: Float[DeviceArray, "B M P 2"]
) -> Float32[jax.Array, "B N P"]:
    """Samples the masks of segment maps bilinearly at points; equals sample_masks without creating the masks.

    segments, planes: as in MaskTargets. points: M = 1: shared by the masks of a row; M = N: separate for each mask.
    """
    batch, _, height, width = segments.shape
    number = jnp.arange(1, planes.shape[1] + 1)
    cells, weights = bilinear_corners(points, (height, width))  # [B, M, 4, P]
    look_up = jax.vmap(lambda table, index: jnp.take(table, index, axis=0, mode="clip"))
    if points.shape[1] == 1:
        labels = look_up(segments.reshape(batch, -1, height * width).transpose(0, 2, 1), cells)  # [B, 1, 4, P, planes]
        inside = (labels == number[:, None, None, None]).any(-1)
    else:
        labels = look_up(segments.reshape(batch, -1), planes[..., None, None] * (height * width) + cells)
        inside = labels == number[:, None, None]
    return jnp.where(inside, weights, 0.0).sum(-2)


def sample_cells(masks: Shaped[DeviceArray, "B N h w"], size: tuple[int, int]) -> Float32[jax.Array, "B N {size[0]}*{size[1]}"]:
    """Samples masks bilinearly at the cell centers of a grid (rows, columns)."""
    resized = masks.astype(jnp.float32)
    if masks.shape[2:] != size:
        resized = resize_bilinear(resized.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
    return resized.reshape(*masks.shape[:2], -1)


def select_uncertain_points(
    logits: Float[DeviceArray, "B N h w"],
    valid: Bool[DeviceArray, "B N"],
    candidates: Float[DeviceArray, "B M tried 2"],
    unselected: Float[DeviceArray, "B M unselected 2"],
    num_points: int,
) -> Float[jax.Array, "B M {num_points} 2"]:
    """Selects the candidates with logits nearest to zero; returns them, followed by the unselected points. valid: False for
    padding. If the masks of a row share the points (M = 1), a candidate is as uncertain as for the most uncertain valid mask.
    As in Mask2Former, no gradient flows through the selection."""
    num_selected = num_points - unselected.shape[-2]
    if not num_selected:
        return unselected
    uncertainty = -jnp.abs(sample_masks(jax.lax.stop_gradient(logits), candidates))  # [B, N, P']
    if candidates.shape[1] == 1:
        uncertainty = jnp.max(jnp.where(valid[..., None], uncertainty, -jnp.inf), axis=1, keepdims=True)
    rows = ("batch", None, None)  # the compiler does not partition top_k by itself
    selected = axes.map_shards(lambda x: jax.lax.top_k(x, num_selected)[1], rows, out=rows)(uncertainty)
    return jnp.concatenate([jnp.take_along_axis(candidates, selected[..., None], axis=2), unselected], axis=2)
