"""Encodes the parts of HyperSeg's input that do not depend on the prompt, to be cached for further prompts about an image.

image_tokens  the image's tokens for the language model
image         features of the mask branch: the encoder's pyramid and the outputs of the pixel decoder
example       the tokens of the reference image that regions were drawn on
prefix        keys and values of the first positions that all prompts of a kind share: text, image and fine-grained
              tokens; first frames only, because later frames depend on the previous frame
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.structs import Layout, Source
from hyperseg_jax.systems.hyperseg.model import HyperSeg, Prefix
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks
from hyperseg_jax.systems.psalm.trunk import ImageFeatures


def make_encodings(model: HyperSeg, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of each part, in order of dependency."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> ImageFeatures:
        features: ImageFeatures = model.apply(
            {"params": params}, normalize_for_masks(part["images"][:, 0]), method="encode_image"
        )  # type: ignore[assignment]
        return features

    def encode_image_tokens(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        (pixels,) = part.values()
        tokens: jax.Array = model.apply({"params": params}, normalize_for_llm(pixels[:, 0]), method="image_tokens")  # type: ignore[assignment]
        return tokens

    def encode_prefix(params: Any, part: Batch, features: Mapping[str, Any]) -> Prefix:
        pyramid = features["image"].pyramid if "image" in features else None
        layout = Layout(**part["layout"])
        encoded: Any = model.apply({"params": params}, layout, features["image_tokens"], pyramid, method="read")
        return encoded  # type: ignore[no-any-return]

    return {
        "image_tokens": Encoding(encode_image_tokens),
        "image": Encoding(encode_image),
        "example": Encoding(encode_image_tokens),
        "prefix": Encoding(encode_prefix, needs=("image_tokens", "image"), without_memory=True),
    }


def split_parts(batch: Batch) -> dict[str, Batch]:
    """Returns the arrays of each part of a batch, on the host; {} for batches of several frames, whose features would need too
    much memory."""
    if batch["images"].shape[1] > 1:
        return {}
    parts_of_batch: dict[str, Batch] = {"image_tokens": {"clip_images": batch["clip_images"]}}
    if "names" in batch or (batch["layout"]["source"] == Source.QUERY).any():
        parts_of_batch["image"] = {"images": batch["images"]}
    if "region_images" in batch:
        parts_of_batch["example"] = {"region_images": batch["region_images"]}
    if length := prefix_length(batch["layout"]):
        parts_of_batch["prefix"] = {"layout": {name: value[:, :length] for name, value in batch["layout"].items()}}
    return parts_of_batch


def prefix_length(layout: Mapping[str, np.ndarray]) -> int:
    """Returns the number of positions up to the last image position in layouts [B, L]. Returns 0 if this number differs between
    rows, or if some of these positions belong to only one of several prompts."""
    is_image = np.isin(layout["source"], (Source.IMAGE, Source.RESAMPLED))
    lengths = is_image.shape[1] - is_image[:, ::-1].argmax(1)
    length = int(lengths[0])
    first = layout["prompt"][:, :length]
    shared = (first == 0).all(1) | (layout["prompt"].max(1) == 1)
    return length if is_image.any(1).all() and (lengths == length).all() and shared.all() else 0
