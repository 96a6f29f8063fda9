"""Writes the names of the entities, and predicts the masks behind them (hybrid entity recognition, see `entities`).

The prompt is read once; the names are generated from its keys and values, token by token; then one step over the names, [SEG]
and the mask queries, with the same keys and values, gives the masks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int32

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.llms.cache import map_texts
from hyperseg_jax.llms.generate import generate
from hyperseg_jax.llms.name_list import NameList, restrict
from hyperseg_jax.structs import IGNORED, Layout, Source
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput, Prefix
from hyperseg_jax.systems.hyperseg.temporal import FrameMemory
from hyperseg_jax.systems.psalm.trunk import ImageFeatures, ImageTokens


def split_prompts(batch: Batch, features: Any, memory: FrameMemory | None) -> tuple[Batch, Any, FrameMemory | None]:
    """Returns the batch of images with K prompts as one of B * K images with one prompt, with its features and memory."""
    prompts = batch["uses_expression"].shape[1]
    if prompts == 1:
        return batch, features, memory
    repeat = lambda x: jnp.repeat(x, prompts, axis=0)
    separate = lambda x: x.reshape(len(x) * prompts, 1, *x.shape[2:])
    of_images = ("images", "clip_images", "filled", "frame_valid", "bad", "region_images")
    split = {
        name: repeat(value) if name in of_images else jax.tree.map(separate, value)
        for name, value in batch.items()
        if name != "layout"
    }
    layout = Layout(**{name: repeat(value) for name, value in batch["layout"].items()})
    number = jnp.tile(jnp.arange(1, prompts + 1), len(batch["bad"]))[:, None]
    visible = (layout.prompt == 0) | (layout.prompt == number)
    split["layout"] = vars(layout) | {
        "source": jnp.where(visible, layout.source, Source.PADDING),
        "mask": layout.mask & visible,
        "prompt": jnp.where(layout.prompt == number, 1, 0),
    }
    return split, map_texts(repeat, features), None if memory is None else memory.of_prompts(prompts)


def predict_with_names(
    model: HyperSeg,
    params: Any,
    entities: Entities,
    names: NameList,
    image_features: ImageFeatures,
    image_tokens: ImageTokens,
    layout: Layout,
    passed: Mapping[str, Any],
    *,
    prefix: Prefix | None,
    **prompts: Any,
) -> HyperSegOutput:
    """Writes names, and predicts the masks behind them. layout: of one prompt in each row, up to the names. passed: what
    previous frames pass to this one, fine_grained_query and prompt_memory. These, prefix, prompts: see
    HyperSeg.predict_masks."""
    apply: Any = functools.partial(model.apply, {"params": params})
    new = {} if prefix is not None else {"image_tokens": image_tokens, "pyramid": image_features.pyramid}
    if "regions" in prompts:
        drawn_on = prompts.get("region_image_tokens", image_tokens)
        regions = drawn_on, prompts["regions"], prompts["region_valid"]
        new["region_tokens"] = apply(*regions, method="region_tokens")
    read = apply(layout, **new, **passed, prefix=prefix, method="read")
    ids = write_names(model, params, read, layout, names, entities)
    whole = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, axis=1),
        layout,
        answer_layout(ids, names, layout, model.num_queries),
    )
    output = apply(image_features, image_tokens, whole, prefix=read, method="predict_masks", **prompts)
    ended = jnp.cumsum(ids == names.end[:, None], axis=1) > 0
    return dataclasses.replace(output, written=jnp.where(ended, -1, ids))


def write_names(
    model: HyperSeg, params: Any, read: Prefix, layout: Layout, names: NameList, entities: Entities
) -> Int32[jax.Array, "B {entities.tokens}"]:
    """Returns the tokens of the names, ended by [SEG] and filled up with it. read: the prompts of the layout."""
    apply: Any = functools.partial(model.apply, {"params": params})
    decoding = dataclasses.replace(entities.decoding(), eos_id=names.end[0])  # the same in all rows
    room = lambda index: decoding.max_new_tokens - 1 - index

    def step(ids: jax.Array, index: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        cache, position, names, progress = state
        progress = names.advance(progress, ids, room(index))
        logits, cache = apply(ids, position + index, cache, method="decode_step")
        return restrict(names, progress, logits, room(index + 1)), (cache, position, names, progress)

    rows = len(layout.source)
    cache = read.past.extended(jnp.zeros((rows, 0), bool), decoding.max_new_tokens - 1)
    first = restrict(names, names.start(), apply(read, layout, method="first_logits"), jnp.int32(room(0)))
    state = cache, _next_position(layout), names, names.start()
    return generate(first, step, state, jax.random.split(jax.random.key(0), rows), decoding)


def answer_layout(ids: Int32[jax.Array, "B T"], names: NameList, layout: Layout, num_queries: int) -> Layout:
    """Returns the layout of the answer behind a prompt: the tokens written, up to [SEG], then the mask queries."""
    rows, size = ids.shape
    end = (ids != names.end[:, None]).sum(-1, keepdims=True)  # the index of [SEG]
    index, queries = jnp.arange(size), jnp.arange(num_queries)
    start = _next_position(layout)[:, None]
    listed = (names.items[:, :, 0] >= 0)[:, :-1].sum(-1, keepdims=True)
    found = names.classes_of(ids) if names.restricted else jnp.full(ids.shape, -1)
    segment = jnp.where(found == names.items.shape[1] - 1, 0, found + 1)  # the last name stands for nothing
    of_queries = lambda value: jnp.broadcast_to(value, (rows, num_queries))
    join = lambda written, of_query: jnp.concatenate([written, of_queries(of_query)], axis=1).astype(jnp.int32)
    is_token = index <= end
    return Layout(
        text_ids=join(jnp.where(is_token, ids, 0), 0),
        source=join(jnp.where(is_token, Source.NAME, Source.PADDING), Source.QUERY),
        index=join(jnp.where(is_token, index, 0), queries),
        segment=join(jnp.where(index == end, listed + 1, segment), 0),
        labels=join(jnp.full(ids.shape, IGNORED), IGNORED),
        mask=join(is_token, 1).astype(bool),
        prompt=join(is_token, 1),
        position=join(start + index, start + end + 1 + queries),
    )


def _next_position(layout: Layout) -> Int32[jax.Array, " B"]:
    """Returns the position of the token behind each prompt."""
    return jnp.where(layout.source != Source.PADDING, layout.position, -1).max(-1).astype(jnp.int32) + 1
