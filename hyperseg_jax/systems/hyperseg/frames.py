"""Runs HyperSeg over the frames of a batch; each frame gets the fine-grained query of the previous frame."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from hyperseg_jax.connectors.perceiver import GATES, gate_values
from hyperseg_jax.data.processor import Batch
from hyperseg_jax.layers.remat import remat_scan_body
from hyperseg_jax.llms.name_list import NameList
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.hyperseg.recognition import predict_with_names
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks


def run_frames(
    model: HyperSeg,
    params: Any,
    batch: Batch,
    query: jax.Array | None,
    per_frame: Callable[[HyperSegOutput, Any], Any],
    features: Mapping[str, Any] = {},
    dropout_key: PRNGKeyArray | None = None,
    entities: Entities | None = None,
    **options: Any,
) -> tuple[Any, jax.Array]:
    """Returns per_frame(output, t) stacked over the frames of a batch, and the next query of the last frame.

    query: the fine-grained query of the previous frame; None uses the learned one. features: those of `encoding`, for a batch
    of one frame; {} computes them here. dropout_key: each frame folds its number into it; None: no dropout. entities: how the
    names of a batch with "names" are written; its rows have one prompt each.
    """
    layout = Layout(**batch["layout"])
    num_frames = batch["frame_valid"].shape[1]
    apply = functools.partial(model.apply, {"params": params})
    prompts = {"num_prompts": batch["uses_expression"].shape[1], "num_classes": batch["class_valid"].shape[2], **options}
    if batch["regions"].shape[2]:
        prompts |= {"regions": batch["regions"], "region_valid": batch["region_valid"]}
        if "example" in features:
            prompts["region_image_tokens"] = features["example"]
        elif "region_images" in batch:
            prompts["region_image_tokens"] = apply(normalize_for_llm(batch["region_images"][:, 0]), method="image_tokens")

    # All frames have the same text, so its embeddings are gathered once.
    text = apply(jnp.asarray(layout.text_ids), method="embed_text") if num_frames > 1 else None

    names = None
    if entities is not None and "names" in batch:
        listed = {name: value[:, 0] for name, value in batch["names"].items()}
        listed["end"] = jnp.full_like(listed["end"], listed["end"].max())  # padding prompts and blank rows have 0
        names = NameList(**listed, repeats=entities.repeats, restricted=entities.restricted)

    def run_frame(query: jax.Array | None, t: int | jax.Array) -> tuple[jax.Array, Any]:
        if features or names is not None:
            prefix = features.get("prefix") if query is None else None
            image_features = (
                features["image"]
                if "image" in features
                else apply(normalize_for_masks(batch["images"][:, t]), method="encode_image")
            )
            cached_tokens = features.get("image_tokens")
            image_tokens = (
                apply(normalize_for_llm(batch["clip_images"][:, t]), method="image_tokens")
                if cached_tokens is None
                else cached_tokens
            )
            inputs: Any = image_features, image_tokens, layout
            output: Any
            if entities is not None and names is not None:
                output = predict_with_names(
                    model, params, entities, names, *inputs, fine_grained_query=query, prefix=prefix, **prompts
                )
            else:
                output = apply(*inputs, fine_grained_query=query, prefix=prefix, method="predict_masks", **prompts)
        else:
            images, clip_images = normalize_for_masks(batch["images"][:, t]), normalize_for_llm(batch["clip_images"][:, t])
            rngs = None if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, t)}
            output, variables = apply(
                images, clip_images, layout, fine_grained_query=query, text=text, rngs=rngs, mutable=GATES, **prompts
            )
            output = output.replace(gates=gate_values(variables))
        return output.next_query, per_frame(output, t)

    if num_frames == 1:
        next_query, outputs = run_frame(query, 0)
        return jax.tree.map(lambda x: x[None], outputs), next_query
    if query is None:
        learned = params["perceiver"]["query"]
        query = jnp.broadcast_to(learned, (batch["images"].shape[0], *learned.shape))
    next_query, outputs = jax.lax.scan(remat_scan_body(run_frame), model.precision.cast(query), jnp.arange(num_frames))
    return outputs, next_query
