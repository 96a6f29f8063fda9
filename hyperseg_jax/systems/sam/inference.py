"""SAM inference: encodes images once, and answers prompts with the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Float32

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.decoders.sam import SamPrediction
from hyperseg_jax.decoders.sam_prompts import NEGATIVE, NO_POINT, POSITIVE, SamPrompts
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.sam.model import Sam
from hyperseg_jax.systems.system import Predict, Propose

Memory = tuple[Float[DeviceArray, "B R h4 w4"], Bool[DeviceArray, "B R"]]
"""The last round: the chosen mask logits, which the decoder reads as mask prompts, and which regions existed."""


def make_encodings(model: Sam, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of images."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        images = normalize_padded(part["images"][:, 0], part["filled"])
        encoded: jax.Array = model.apply({"params": params}, images, method="encode_image")  # type: ignore[assignment]
        return encoded

    return {"image": Encoding(encode_image)}


def make_predict(model: Sam, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function. Outputs: mask_logits [B, 1, 1, R, M, h, w] of all candidates of each region, iou and order,
    see `rank_candidates`. features: see make_encodings. memory: see Memory."""
    encode_image = make_encodings(model, config)["image"].function

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: Memory | None = None
    ) -> tuple[dict[str, jax.Array], Memory]:
        image = features["image"] if "image" in features else encode_image(params, batch, {})
        prompts = prompts_of(batch, memory)
        prediction: SamPrediction = model.apply({"params": params}, image, prompts, method="decode")  # type: ignore[assignment]
        order = rank_candidates(prediction.iou, has_one_point(prompts))
        outputs = {"mask_logits": prediction.mask_logits, "iou": prediction.iou, "order": order}
        chosen = choose(prediction.mask_logits, order), batch["region_valid"]
        return {name: value[:, None, None] for name, value in outputs.items()}, chosen

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


def prompts_of(batch: Batch, memory: Memory | None = None) -> SamPrompts:
    """Returns the prompts of a batch. memory: of the last round, which may have had fewer regions."""
    places, kinds = batch["places"], batch["kinds"]
    if memory is None:
        return SamPrompts(places, kinds)
    count = kinds.shape[1]
    fit = lambda x: jnp.pad(x, ((0, 0), (0, max(count - x.shape[1], 0)), *((0, 0),) * (x.ndim - 2)))[:, :count]
    return SamPrompts(places, kinds, *map(fit, memory))


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
