"""What HyperSeg can encode apart from a prompt, to be kept while the same image is asked again.

image_tokens  the image's tokens for the language model
image         the mask branch: the encoder's pyramid, and what the pixel decoder makes of it
example       the tokens of another image, on which regions were drawn
prefix        keys and values of the first positions, which all prompts of a kind share: text, image and fine-grained
              tokens; of a first frame only, as later ones see the frame before
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.structs import Layout, Source
from hyperseg_jax.systems.hyperseg.frames import normalise, normalise_clip
from hyperseg_jax.systems.hyperseg.model import HyperSeg, Prefix, Seen


def encode(model: HyperSeg, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """By part, each after those that it needs."""

    def image(params: Any, part: Batch, _: Mapping[str, Any]) -> Seen:
        seen: Seen = model.apply({"params": params}, normalise(part["images"][:, 0]), method="see")  # type: ignore[assignment]
        return seen

    def image_tokens(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        (pixels,) = part.values()
        tokens: jax.Array = model.apply({"params": params}, normalise_clip(pixels[:, 0]), method="image_tokens")  # type: ignore[assignment]
        return tokens

    def prefix(params: Any, part: Batch, features: Mapping[str, Any]) -> Prefix:
        pyramid = features["image"].pyramid if "image" in features else None
        layout = Layout(**part["layout"])
        made: Any = model.apply({"params": params}, features["image_tokens"], layout, pyramid, method="read_prefix")
        return made  # type: ignore[no-any-return]

    return {
        "image_tokens": Encoding(image_tokens),
        "image": Encoding(image),
        "example": Encoding(image_tokens),
        "prefix": Encoding(prefix, needs=("image_tokens", "image"), first=True),
    }


def parts(batch: Batch) -> dict[str, Batch]:
    """The parts of a batch on the host. One of several frames has none: its features would take the memory of all frames."""
    if batch["images"].shape[1] > 1:
        return {}
    made: dict[str, Batch] = {"image_tokens": {"clip_images": batch["clip_images"]}}
    if (batch["layout"]["source"] == Source.QUERY).any():
        made["image"] = {"images": batch["images"]}
    if "region_images" in batch:
        made["example"] = {"region_images": batch["region_images"]}
    if length := prefix_length(batch["layout"]):
        made["prefix"] = {"layout": {name: value[:, :length] for name, value in batch["layout"].items()}}
    return made


def prefix_length(layout: Mapping[str, np.ndarray]) -> int:
    """Positions up to the last one of the image in layouts [B, L], where all rows have as many and share them among their
    prompts; else 0."""
    of_image = np.isin(layout["source"], (Source.IMAGE, Source.FINE_GRAINED))
    lengths = of_image.shape[1] - of_image[:, ::-1].argmax(1)
    length = int(lengths[0])
    first = layout["prompt"][:, :length]
    shared = (first == 0).all(1) | (layout["prompt"].max(1) == 1)
    return length if of_image.any(1).all() and (lengths == length).all() and shared.all() else 0
