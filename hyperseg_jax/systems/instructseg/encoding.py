"""Encodes the images of a batch separately, to be cached: each frame of a video once, for all frames and prompts that need it.

image   features of the mask branch of the queried frame
slot_*  the tokens of the frame in each slot for the language model
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.systems.instructseg.inputs import slot_name
from hyperseg_jax.systems.instructseg.model import InstructSeg
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks
from hyperseg_jax.systems.psalm.trunk import ImageFeatures


def make_encodings(model: InstructSeg, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of each part."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> ImageFeatures:
        features: Any = model.apply({"params": params}, normalize_for_masks(part["images"][:, 0]), method="encode_image")
        return features  # type: ignore[no-any-return]

    def encode_slot(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        tokens: Any = model.apply({"params": params}, normalize_for_llm(part["clip_image"][:, 0]), method="image_tokens")
        return tokens  # type: ignore[no-any-return]

    slots = map(slot_name, range(1 + config.data.reference_frames))
    return {"image": Encoding(encode_image), **{slot: Encoding(encode_slot) for slot in slots}}
