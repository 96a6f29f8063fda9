"""The losses of instances: their boxes in each frame, and their identities over the frames of a clip (IDOL, Wu et al. 2022).

The queries of the targets are those that the mask criterion has matched; neither boxes nor embeddings enter the matching.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from hyperseg_jax.errors import UserError
from hyperseg_jax.losses.boxes import box_losses, quality_loss
from hyperseg_jax.losses.reidentification import choose_queries, reidentification_loss
from hyperseg_jax.structs import DeviceArray, MaskPrediction

HEADS = {
    "box_weight": ("box",),
    "giou_weight": ("box",),
    "box_iou_weight": ("box", "box_iou"),
    "reid_weight": ("box", "reid"),
    "reid_cosine_weight": ("box", "reid"),
}
"""The heads of the decoder that each loss needs."""


@flax.struct.dataclass
class FrameInstances:
    """The queries of B rows in a frame, or in T frames, and their targets.

    embeddings: for re-identification. boxes: of the queries. class_probability: of the queries, 0..1. query_of_target: -1 if
    unmatched. target_boxes: of the targets. visible: targets with pixels in the frame whose identity is trained.
    """

    embeddings: Float[DeviceArray, "*T B Q D"]
    boxes: Float[DeviceArray, "*T B Q 4"]
    class_probability: Float[DeviceArray, "*T B Q C"]
    query_of_target: Int[DeviceArray, "*T B N"]
    target_boxes: Float[DeviceArray, "*T B N 4"]
    visible: Bool[DeviceArray, "*T B N"]


@dataclasses.dataclass(frozen=True)
class InstanceCriterion:
    """The weights of the losses of instances; 0 turns a loss off.

    box_weight, giou_weight: L1 and generalized IoU of boxes. box_iou_weight: the predicted quality of boxes. reid_weight,
    reid_cosine_weight: the two losses of `reidentification_loss`.
    """

    box_weight: float = 0.0
    giou_weight: float = 0.0
    box_iou_weight: float = 0.0
    reid_weight: float = 0.0
    reid_cosine_weight: float = 0.0

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], heads: Collection[str]) -> InstanceCriterion:
        """Builds the criterion. fields: config.loss. heads: those of the decoder. Raises UserError if a loss needs another
        head, or boxes that nothing trains."""
        criterion = cls(**{name: fields.get(name, 0.0) for name in HEADS})
        for name, needed in HEADS.items():
            missing = [head for head in needed if head not in heads]
            if missing and getattr(criterion, name):
                raise UserError(
                    f"loss.{name} = {getattr(criterion, name)}, but the decoder has no head {missing[0]!r}; add it to its "
                    "heads, or set the weight to 0"
                )
        if criterion.trains_identities and not (criterion.box_weight or criterion.giou_weight):
            raise UserError(
                "loss.reid_weight and loss.reid_cosine_weight compare queries that are chosen by their boxes, which nothing "
                "trains; set loss.box_weight and loss.giou_weight, such as 5 and 2"
            )
        return criterion

    @property
    def trains_boxes(self) -> bool:
        """Whether a loss of boxes is on."""
        return bool(self.box_weight or self.giou_weight or self.box_iou_weight)

    @property
    def trains_identities(self) -> bool:
        """Whether a loss of re-identification is on."""
        return bool(self.reid_weight or self.reid_cosine_weight)

    def trained_heads(self) -> set[str]:
        """Returns the heads that a loss trains."""
        trained = {"box": self.box_weight or self.giou_weight, "box_iou": self.box_iou_weight, "reid": self.trains_identities}
        return {head for head, on in trained.items() if on}

    def box_terms(
        self,
        prediction: MaskPrediction,
        query_of_target: Int[DeviceArray, "stages B N"],
        target_boxes: Float[DeviceArray, "B N 4"],
        visible: Bool[DeviceArray, "B N"],
        count: Float32[DeviceArray, ""],
    ) -> dict[str, Float32[jax.Array, " stages"]]:
        """Returns the unweighted losses of the boxes of each decoder stage, the final prediction last. query_of_target: of the
        mask criterion. visible: valid targets with pixels. count: their number in the whole batch."""
        final = {"boxes": prediction.boxes, "scores": prediction.scores}
        outputs = [*prediction.stages, final]
        included = (query_of_target >= 0) & visible
        take = lambda values: jnp.take_along_axis(
            values, jnp.maximum(query_of_target, 0).reshape(*query_of_target.shape, *[1] * (values.ndim - 3)), axis=2
        )
        chosen = take(jnp.stack([output["boxes"] for output in outputs]))
        expected = jnp.broadcast_to(target_boxes, chosen.shape)
        mean = lambda losses: jnp.where(included, losses, 0.0).sum((1, 2)) / jnp.maximum(count, 1.0)
        distance, overlap = box_losses(chosen, expected)
        terms = {"box": mean(distance), "giou": mean(overlap)}
        if self.box_iou_weight:
            quality = take(jnp.stack([output["scores"]["box_iou"] for output in outputs]))
            terms["box_iou"] = mean(quality_loss(quality, chosen, expected))
        return terms

    def identity_terms(
        self,
        frames: FrameInstances,
        labels: Int[DeviceArray, "B N"],
        count: Float32[DeviceArray, ""],
        *,
        key: PRNGKeyArray,
    ) -> dict[str, Float32[jax.Array, ""]]:
        """Returns the unweighted re-identification losses of a clip of T frames.

        Each frame in turn is the key frame, and all others are its reference frames. A target is compared in two frames if it
        is visible in both. count: of `count_pairs`, in the whole batch.
        """
        per_row = lambda function: jax.vmap(jax.vmap(function))
        choose = jax.vmap(jax.vmap(choose_queries), in_axes=(0, 0, 0, None, 0))
        detached = jax.lax.stop_gradient((frames.boxes, frames.class_probability))
        chosen = choose(*detached, frames.target_boxes, labels, frames.visible)
        matched = frames.query_of_target >= 0
        keys = jnp.take_along_axis(frames.embeddings, jnp.maximum(frames.query_of_target, 0)[..., None], axis=2)

        def losses_at(distance: int) -> tuple[jax.Array, jax.Array]:
            """Returns the summed losses of all pairs of frames at a distance, counted in a circle."""
            embeddings, candidates, seen = jax.tree.map(
                lambda x: jnp.roll(x, -distance, axis=0), (frames.embeddings, chosen, frames.visible)
            )
            both = frames.visible & matched & seen
            random = jax.random.split(jax.random.fold_in(key, distance), both.shape[:2])
            loss = per_row(lambda *row: reidentification_loss(*row[:-1], key=row[-1]))
            contrast, cosine = loss(keys, embeddings, candidates, both, random)
            compared = both.sum(-1)
            return (contrast * compared).sum(), (cosine * compared).sum()

        pairs = [losses_at(distance) for distance in range(1, len(frames.visible))]
        contrast, cosine = (sum(values, jnp.zeros(())) / jnp.maximum(count, 1.0) for values in zip(*pairs, strict=True))
        return {"reid": contrast, "reid_cosine": cosine}


def count_pairs(visible: Bool[DeviceArray, "T B N"]) -> Float32[jax.Array, " T"]:
    """Returns for each key frame the number of targets and other frames that both show the target."""
    frames = visible.sum(0)  # [B, N]
    return (visible * (frames - 1)).sum((1, 2)).astype(jnp.float32)
