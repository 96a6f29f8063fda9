"""HyperSeg over the frames of a batch, each seeing the fine-grained query of the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.layers.remat import forgetful
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput

# ImageNet statistics on 0..255 for the mask branch; the language branch takes -1..1.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def normalise(images: jax.Array, clip_images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 pixels to what the two encoders take, on the device."""
    images = (images.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)
    return images, normalise_clip(clip_images)


def normalise_clip(images: jax.Array) -> jax.Array:
    """What the language branch takes of uint8 pixels."""
    return images.astype(jnp.float32) / 127.5 - 1


def over_frames(
    model: HyperSeg,
    params: Any,
    batch: Batch,
    query: jax.Array | None,
    per_frame: Callable[[HyperSegOutput, Any], Any],
    **options: Any,
) -> tuple[Any, jax.Array]:
    """per_frame(output, t) over the frames of a batch, stacked, and the query that the last one feeds back; each frame sees
    the fine-grained query of the one before."""
    layout = Layout(**batch["layout"])
    regions = (batch["regions"], batch["region_valid"]) if batch["regions"].shape[2] else (None, None)
    drawn_on = normalise_clip(batch["region_images"][:, 0]) if "region_images" in batch else None

    def one(query: jax.Array | None, t: int | jax.Array) -> tuple[jax.Array, Any]:
        images, clip_images = normalise(batch["images"][:, t], batch["clip_images"][:, t])
        output: Any = model.apply(
            {"params": params},
            images,
            clip_images,
            layout,
            regions=regions[0],
            region_valid=regions[1],
            region_images=drawn_on,
            fine_grained_query=query,
            num_prompts=batch["uses_expression"].shape[1],
            num_classes=batch["class_valid"].shape[2],
            **options,
        )
        return output.next_query, per_frame(output, t)

    count = batch["images"].shape[1]
    if count == 1:
        following, found = one(query, 0)
        return jax.tree.map(lambda x: x[None], found), following
    if query is None:
        learned = params["perceiver"]["query"]
        query = jnp.broadcast_to(learned, (batch["images"].shape[0], *learned.shape))
    following, found = jax.lax.scan(forgetful(one), model.precision.cast(query), jnp.arange(count))
    return found, following
