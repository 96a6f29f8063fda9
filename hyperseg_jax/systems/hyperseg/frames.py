"""Runs HyperSeg over the frames of a batch; each frame gets what the previous ones pass to it (`temporal`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, PRNGKeyArray

from hyperseg_jax.connectors.perceiver import GATES, gate_values
from hyperseg_jax.data.processor import Batch
from hyperseg_jax.layers.remat import remat_scan_body
from hyperseg_jax.llms.name_list import NameList
from hyperseg_jax.structs import DeviceArray, Layout
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.hyperseg.recognition import predict_with_names
from hyperseg_jax.systems.hyperseg.temporal import FrameMemory, PromptMemory, count_items
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks


def run_frames(
    model: HyperSeg,
    params: Any,
    batch: Batch,
    memory: FrameMemory | None,
    per_frame: Callable[[HyperSegOutput, Any], Any],
    features: Mapping[str, Any] = {},
    dropout_key: PRNGKeyArray | None = None,
    entities: Entities | None = None,
    **options: Any,
) -> tuple[Any, FrameMemory]:
    """Returns per_frame(output, t) stacked over the frames of a batch, and the memory for the next frame.

    memory: that of the frames before; None before the first. Padding frames leave it unchanged. features: those of `encoding`,
    for a batch of one frame; {} computes them here. dropout_key: each frame folds its number into it; None: no dropout.
    entities: how the names of a batch with "names" are written; its rows have one prompt each.
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

    start = first_memory(model, params, batch)
    if memory is not None and memory.prompts is not None and start.prompts is not None:
        memory = FrameMemory(memory.query, memory.prompts.with_room(start.prompts.valid.shape[-1]))

    def run_frame(memory: FrameMemory | None, t: int | jax.Array) -> tuple[FrameMemory, Any]:
        passed: dict[str, Any] = {} if memory is None else {"fine_grained_query": memory.query, "prompt_memory": memory.prompts}
        if features or names is not None:
            prefix = features.get("prefix") if memory is None else None
            image_features: Any = (
                features["image"]
                if "image" in features
                else apply(normalize_for_masks(batch["images"][:, t]), method="encode_image")
            )
            cached_tokens = features.get("image_tokens")
            image_tokens: Any = (
                apply(normalize_for_llm(batch["clip_images"][:, t]), method="image_tokens")
                if cached_tokens is None
                else cached_tokens
            )
            output: Any
            if entities is not None and names is not None:
                output = predict_with_names(
                    model, params, entities, names, image_features, image_tokens, layout, passed, prefix=prefix, **prompts
                )
            else:
                inputs = image_features, image_tokens, layout
                output = apply(*inputs, **passed, prefix=prefix, method="predict_masks", **prompts)
        else:
            images, clip_images = normalize_for_masks(batch["images"][:, t]), normalize_for_llm(batch["clip_images"][:, t])
            rngs = None if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, t)}
            output, variables = apply(images, clip_images, layout, **passed, text=text, rngs=rngs, mutable=GATES, **prompts)
            output = output.replace(gates=gate_values(variables))
        present = batch["frame_valid"][:, t]
        return advance(start if memory is None else memory, output, present), per_frame(output, t)

    if num_frames == 1:
        last, outputs = run_frame(memory, 0)
        return jax.tree.map(lambda x: x[None], outputs), last
    carry = start if memory is None else memory
    last, outputs = jax.lax.scan(remat_scan_body(run_frame), carry, jnp.arange(num_frames))
    return outputs, last


def first_memory(model: HyperSeg, params: Any, batch: Batch) -> FrameMemory:
    """Returns the memory before the first frame: the learned query, and no prompts."""
    temporal, precision = model.temporal, model.precision
    rows, prompts, classes = batch["class_valid"].shape
    query: jax.Array | None = None
    memory: PromptMemory | None = None
    if temporal.injection:
        learned = params["perceiver"]["query"]
        query = precision.cast(jnp.broadcast_to(learned, (rows, *learned.shape)))
    if temporal.aggregation:
        items, width = count_items(classes, batch["regions"].shape[2]), model.llm.hidden_size
        memory = PromptMemory.empty(rows, prompts, temporal.frames, items, width, precision.compute)
    return FrameMemory(query, memory)


def advance(memory: FrameMemory, output: HyperSegOutput, present: Bool[DeviceArray, " B"]) -> FrameMemory:
    """Returns the memory after a frame with this output. present: False for padding frames, which change nothing."""
    query, prompts = memory.query, memory.prompts
    if query is not None:
        query = jnp.where(present[:, None, None], output.next_query, query)
    if prompts is not None and output.items is not None and output.item_valid is not None:
        prompts = prompts.with_frame(output.items, output.item_valid, present)
    return FrameMemory(query, prompts)
