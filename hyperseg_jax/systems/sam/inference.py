"""SAM inference: encodes images once, and answers prompts with the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Float32, Int, Shaped

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.decoders.sam import SamPrediction
from hyperseg_jax.decoders.sam_prompts import ABSENT, NEGATIVE, NO_POINT, POSITIVE, SamPrompts
from hyperseg_jax.ops.padding import fit_axis
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.sam.model import Sam
from hyperseg_jax.systems.system import Predict, Propose


@flax.struct.dataclass
class Memory:
    """The last round: which regions existed, their marks, and the answers to them, see `make_predict`."""

    known: Bool[DeviceArray, "B R"]
    places: Float[DeviceArray, "B R K 2"]
    kinds: Int[DeviceArray, "B R K"]
    answers: dict[str, Shaped[DeviceArray, "B R *_"]]

    def with_room(self, batch: Batch) -> Memory:
        """Returns the memory with the regions and marks of another round, of which there may be more."""
        regions, marks = batch["kinds"].shape[1:]
        of_regions = jax.tree.map(lambda x: fit_axis(x, 1, regions), self)
        places, kinds = fit_axis(of_regions.places, 2, marks), fit_axis(of_regions.kinds, 2, marks, ABSENT)
        fitted: Memory = of_regions.replace(places=places, kinds=kinds)
        return fitted

    def unchanged(self, batch: Batch) -> Bool[jax.Array, "B R"]:
        """Returns the regions whose marks are those of the last round."""
        kinds = batch["kinds"]
        same_places = (batch["places"] == self.places).all(-1) | (kinds == ABSENT)
        return self.known & ((kinds == self.kinds) & same_places).all(-1)


def make_encodings(model: Sam, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of images."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        images = normalize_padded(part["images"][:, 0], part["filled"])
        encoded: jax.Array = model.apply({"params": params}, images, method="encode_image")  # type: ignore[assignment]
        return encoded

    return {"image": Encoding(encode_image)}


def make_predict(model: Sam, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function. Outputs: mask_logits [B, 1, 1, R, M, h, w] of all candidates of each region, iou and order,
    see `rank_candidates`. features: see make_encodings. memory: see Memory. A region whose marks have changed also gets the
    mask of the last round as a prompt; any other keeps its answer."""
    encode_image = make_encodings(model, config)["image"].function

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: Memory | None = None
    ) -> tuple[dict[str, jax.Array], Memory]:
        image = features["image"] if "image" in features else encode_image(params, batch, {})
        memory = None if memory is None else memory.with_room(batch)
        prompts = prompts_of(batch)
        if memory is not None:
            last = choose(memory.answers["mask_logits"], memory.answers["order"])
            prompts = prompts.replace(masks=last, has_mask=memory.known)  # type: ignore[attr-defined]
        prediction: SamPrediction = model.apply({"params": params}, image, prompts, method="decode")  # type: ignore[assignment]
        order = rank_candidates(prediction.iou, has_one_point(prompts))
        answers = {"mask_logits": prediction.mask_logits, "iou": prediction.iou, "order": order}
        if memory is not None:
            unchanged = memory.unchanged(batch)
            keep = lambda old, new: jnp.where(jnp.expand_dims(unchanged, tuple(range(2, new.ndim))), old, new)
            answers = jax.tree.map(keep, memory.answers, answers)
        outputs = {name: value[:, None, None] for name, value in answers.items()}
        return outputs, Memory(batch["region_valid"], batch["places"], batch["kinds"], answers)

    return predict_batch


def make_propose(model: Sam, config: ml_collections.ConfigDict) -> Propose:
    """Returns the Propose function: each point is a prompt of its own, and masks 1 and later are its candidates."""

    def propose(params: Any, features: Mapping[str, Any], points: Float32[jax.Array, "N 2"]) -> tuple[jax.Array, jax.Array]:
        marks = jnp.stack([points, jnp.zeros_like(points)], axis=1)[None]
        kinds = jnp.broadcast_to(jnp.array([POSITIVE, NO_POINT]), (1, len(points), 2))
        prediction: SamPrediction = model.apply(  # type: ignore[assignment]
            {"params": params}, features["image"], SamPrompts(marks, kinds), method="decode"
        )
        return prediction.mask_logits[0, :, 1:], prediction.iou[0, :, 1:]

    return propose


def prompts_of(batch: Batch) -> SamPrompts:
    """Returns the points and boxes of a batch as prompts."""
    return SamPrompts(batch["places"], batch["kinds"])


def has_one_point(prompts: SamPrompts) -> Bool[jax.Array, "B R"]:
    """Returns whether a region is prompted by a single point and nothing else, so that it is unclear what is meant."""
    points = ((prompts.kinds == POSITIVE) | (prompts.kinds == NEGATIVE)).sum(-1)
    others = (prompts.kinds > POSITIVE).any(-1)
    unclear = (points == 1) & ~others
    return unclear if prompts.has_mask is None else unclear & ~prompts.has_mask


def rank_candidates(iou: Float[DeviceArray, "B R M"], unclear: Bool[DeviceArray, "B R"]) -> Float32[jax.Array, "B R M"]:
    """Returns by what the candidates of a region are ordered: for an unclear prompt the estimated IoU of masks 1 and later, and
    mask 0 for any other, as SAM's authors advise."""
    is_first = jnp.arange(iou.shape[-1]) == 0
    return jnp.where(unclear[..., None] == is_first, -jnp.inf, iou.astype(jnp.float32))


def choose(masks: Float[DeviceArray, "B R M h w"], order: Float[DeviceArray, "B R M"]) -> Float[jax.Array, "B R h w"]:
    """Returns the first candidate of each region."""
    best = jnp.argmax(order, axis=-1)
    return jnp.take_along_axis(masks, best[..., None, None, None], axis=2)[:, :, 0]
