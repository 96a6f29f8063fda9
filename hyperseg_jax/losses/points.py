"""Random points for mask losses (PointRend, Kirillov et al. 2020), and sampling of masks at points."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, Float32, Int, PRNGKeyArray, Shaped, UInt, UInt32

from hyperseg_jax import axes
from hyperseg_jax.ops.patches import locate_patches, pack_labels, sample_patches, unpack_labels
from hyperseg_jax.ops.sampling import grid_sample, resize_bilinear
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
    if points.shape[1] == 1:
        return grid_sample(masks.transpose(0, 2, 3, 1), points[:, 0]).transpose(0, 2, 1).astype(jnp.float32)
    own = ("batch", None, None, None)  # each device loops over its own masks
    return axes.map_shards(_sample_own_points, own, own, out=("batch", None, None))(masks, points)


def _sample_own_points(
    masks: Shaped[DeviceArray, "B N h w"], points: Float[DeviceArray, "B N P 2"]
) -> Float32[jax.Array, "B N P"]:
    """Samples each mask at its own points."""
    flat = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return sample_patches(flat(masks).astype(jnp.float32), flat(points)).reshape(points.shape[:3])


@flax.struct.dataclass
class SegmentPatches:
    """Segment maps, packed for sampling (ops/patches.py). shape: (h, w) of the maps."""

    words: UInt32[DeviceArray, "B planes words rows"]
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)


def pack_segments(segments: UInt[DeviceArray, "B planes h w"]) -> SegmentPatches:
    """Packs the segment maps of MaskTargets for `sample_segments`."""
    return SegmentPatches(pack_labels(segments), (segments.shape[2], segments.shape[3]))


def sample_segments(
    patches: SegmentPatches, planes: Int[DeviceArray, "B N"], points: Float[DeviceArray, "B M P 2"]
) -> Float32[jax.Array, "B N P"]:
    """Samples the masks of segment maps bilinearly at points; equals sample_masks without creating the masks.

    planes: the plane of each mask. points: M = 1: shared by the masks of a row; M = N: separate for each mask.
    """
    number = jnp.arange(1, planes.shape[1] + 1)[:, None]
    index, (fx, fy), _ = locate_patches(jnp.moveaxis(points, -1, 0), patches.shape)  # [B, M, P]
    take = lambda words, at: words.at[at].get(mode="promise_in_bounds")
    if points.shape[1] == 1:
        words = jax.vmap(jax.vmap(jax.vmap(take, (0, None)), (0, None)))(patches.words, index[:, 0])
        inside = [(labels[:, None] == number[:, None]).any(2) for labels in unpack_labels(words)]  # [B, N, planes, P]
    else:
        rows = patches.words.shape[-1]
        table = rearrange(patches.words, "b planes words rows -> b words (planes rows)")
        words = jax.vmap(jax.vmap(take, (0, None)))(table, planes[..., None] * rows + index)
        inside = [labels == number for labels in unpack_labels(rearrange(words, "b words n p -> b n words p"))]
    weights = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
    return sum((jnp.where(here, weight, 0.0) for here, weight in zip(inside, weights, strict=True)), jnp.zeros(()))


def sample_cells(masks: Shaped[DeviceArray, "B N h w"], size: tuple[int, int]) -> Float32[jax.Array, "B N {size[0]}*{size[1]}"]:
    """Samples masks bilinearly at the cell centers of a grid (rows, columns)."""
    resized = masks.astype(jnp.float32)
    if masks.shape[2:] != size:
        resized = resize_bilinear(resized.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
    return resized.reshape(*masks.shape[:2], -1)
