"""HyperSeg over the frames of a batch, each seeing the fine-grained query of the one before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.layers.remat import remat_scan_body
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput

# ImageNet statistics on 0..255 for the mask branch; the language branch takes -1..1.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def normalise(images: jax.Array) -> jax.Array:
    """What the mask branch takes of uint8 pixels, on the device."""
    return (images.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)


def normalise_clip(images: jax.Array) -> jax.Array:
    """What the language branch takes of uint8 pixels."""
    return images.astype(jnp.float32) / 127.5 - 1


def over_frames(
    model: HyperSeg,
    params: Any,
    batch: Batch,
    query: jax.Array | None,
    per_frame: Callable[[HyperSegOutput, Any], Any],
    features: Mapping[str, Any] = {},
    **options: Any,
) -> tuple[Any, jax.Array]:
    """per_frame(output, t) over the frames of a batch, stacked, and the query that the last one feeds back; each frame sees
    the fine-grained query of the one before. features: of `encoding`, for a batch of one frame; {} computes them here."""
    layout = Layout(**batch["layout"])
    count = batch["frame_valid"].shape[1]
    apply = functools.partial(model.apply, {"params": params})
    asked = {"num_prompts": batch["uses_expression"].shape[1], "num_classes": batch["class_valid"].shape[2], **options}
    if batch["regions"].shape[2]:
        asked |= {"regions": batch["regions"], "region_valid": batch["region_valid"]}
        if "example" in features:
            asked["region_image_tokens"] = features["example"]
        elif "region_images" in batch:
            asked["region_image_tokens"] = apply(normalise_clip(batch["region_images"][:, 0]), method="image_tokens")

    def one(query: jax.Array | None, t: int | jax.Array) -> tuple[jax.Array, Any]:
        if features:
            prefix = features.get("prefix") if query is None else None
            seen = features["image"] if "image" in features else apply(normalise(batch["images"][:, t]), method="see")
            given = features.get("image_tokens")
            image_tokens = apply(normalise_clip(batch["clip_images"][:, t]), method="image_tokens") if given is None else given
            output: Any = apply(seen, image_tokens, layout, fine_grained_query=query, prefix=prefix, method="answer", **asked)
        else:
            images, clip_images = normalise(batch["images"][:, t]), normalise_clip(batch["clip_images"][:, t])
            output = apply(images, clip_images, layout, fine_grained_query=query, **asked)
        return output.next_query, per_frame(output, t)

    if count == 1:
        following, found = one(query, 0)
        return jax.tree.map(lambda x: x[None], found), following
    if query is None:
        learned = params["perceiver"]["query"]
        query = jnp.broadcast_to(learned, (batch["images"].shape[0], *learned.shape))
    following, found = jax.lax.scan(remat_scan_body(one), model.precision.cast(query), jnp.arange(count))
    return found, following
