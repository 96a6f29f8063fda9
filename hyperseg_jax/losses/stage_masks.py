"""The mask logits of a decoder stage, computed only where a loss needs them."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int

from hyperseg_jax import axes
from hyperseg_jax.losses.points import sample_masks
from hyperseg_jax.ops.sampling import bilinear_corners
from hyperseg_jax.structs import DeviceArray, MaskPrediction


@flax.struct.dataclass
class StageMasks:
    """The masks of B rows in one decoder stage: their logits, or mask embeddings and the features to multiply them with.

    values: logits [B, Q, h, w] if features is None, else embeddings [B, Q, D]. features: of the images, each with the same
    number of consecutive rows.
    """

    values: Float[DeviceArray, "B Q ..."]
    features: Float32[DeviceArray, "images h w D"] | None = None

    def logits(self) -> Float[jax.Array, "B Q h w"]:
        """Returns the full logits."""
        if self.features is None:
            return jnp.asarray(self.values)
        rows = rearrange(self.values, "(images rows) q d -> images rows q d", images=self.features.shape[0])
        logits = jnp.einsum(
            "irqd,ihwd->irqhw",
            rows,
            self.features.astype(rows.dtype),
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        return rearrange(logits, "images rows q h w -> (images rows) q h w")

    def select(self, queries: Int[DeviceArray, "B N"]) -> StageMasks:
        """Returns the masks of these queries."""
        index = queries.reshape(*queries.shape, *[1] * (self.values.ndim - 2))
        return StageMasks(jnp.take_along_axis(self.values, index, axis=1), self.features)

    def sample(self, points: Float[DeviceArray, "B M P 2"]) -> Float32[jax.Array, "B Q P"]:
        """Samples the logits bilinearly at points, as `sample_masks`. Since sampling is linear, points that all masks of a row
        share sample the features, and the full logits are not computed."""
        if self.features is None or points.shape[1] > 1:
            return sample_masks(self.logits(), points)
        images, height, width, _ = self.features.shape
        grouped = rearrange(points, "(images rows) 1 p xy -> images (rows p) xy", images=images)
        cells, weights = bilinear_corners(grouped, (height, width))
        flat = rearrange(self.features, "images h w d -> images (h w) d")
        take = jax.vmap(lambda table, index: table.at[index].get(mode="promise_in_bounds"))
        # One gather for each corner, summed immediately, so that no array larger than the result is written.
        corners = (take(flat, cells[:, k]) * weights[:, k, :, None] for k in range(4))
        sampled = rearrange(sum(corners, jnp.zeros(())), "images (rows p) d -> (images rows) p d", p=points.shape[2])
        return jnp.einsum("bqd,bpd->bqp", self.values.astype(jnp.float32), sampled, precision="highest")


def stack_stages(
    prediction: MaskPrediction,
) -> tuple[Float[jax.Array, "stages B Q ..."], Float32[jax.Array, "images h w D"] | None]:
    """Returns the values of all stages, the final prediction last, and the features, see StageMasks."""
    if prediction.mask_features is None:
        return jnp.stack([*(stage["mask_logits"] for stage in prediction.stages), prediction.mask_logits]), None
    embeddings = [*(stage["mask_embedding"] for stage in prediction.stages), prediction.embeddings["mask"]]
    # In float32, the gradients of all stages are summed in float32.
    return jnp.stack(embeddings), prediction.mask_features.astype(jnp.float32)


def select_uncertain_points(
    masks: StageMasks,
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
    uncertainty = -jnp.abs(jax.lax.stop_gradient(masks).sample(candidates))  # [B, N, P']
    if candidates.shape[1] == 1:
        uncertainty = jnp.max(jnp.where(valid[..., None], uncertainty, -jnp.inf), axis=1, keepdims=True)
    rows = ("batch", None, None)  # the compiler does not partition top_k by itself
    selected = axes.map_shards(lambda x: jax.lax.top_k(x, num_selected)[1], rows, out=rows)(uncertainty)
    return jnp.concatenate([jnp.take_along_axis(candidates, selected[..., None], axis=2), unselected], axis=2)
