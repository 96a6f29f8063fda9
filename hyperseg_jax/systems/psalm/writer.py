"""Generates the text that answers a question about an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.pixels import normalize_for_llm
from hyperseg_jax.systems.psalm.trunk import Trunk

Inputs = tuple[jax.Array, Layout, KeyValues | None]
"""Image tokens, the question, and keys and values of its first positions."""
State = tuple[KeyValues, jax.Array]
"""Keys and values, and the position of the first generated token [B]."""


def make_writer(model: Trunk, config: ml_collections.ConfigDict, *, tokens: str = "image_tokens") -> Writer:
    """Returns the Writer that answers one question about an image.

    tokens: name of the part with the image tokens, which may be in the features.
    """
    apply: Any = model.apply

    def prepare(params: Any, batch: Batch, features: Mapping[str, Any]) -> tuple[Inputs, tuple[int, int]]:
        if (prompts := batch["valid"].shape[1]) > 1:
            raise UserError(f"{prompts} prompts per image, but text is generated for one; set `prompts` of the task to 1")
        image_tokens = features.get(tokens)
        if image_tokens is None:
            image, *_ = jax.tree.leaves(batch["clip_images"])
            image_tokens = apply({"params": params}, normalize_for_llm(image[:, 0]), method="image_tokens")
        past = features["prefix"].past if "prefix" in features else None
        return (image_tokens, Layout(**batch["layout"]), past), (1, 1)

    def begin(params: Any, inputs: Inputs, empty_slots: int) -> tuple[jax.Array, State]:
        image_tokens, layout, past = inputs
        logits, length, cache = apply({"params": params}, image_tokens, layout, empty_slots, past, method="prefill")
        return logits, (cache, length)

    def step(params: Any, ids: jax.Array, number: jax.Array, state: State) -> tuple[jax.Array, State]:
        cache, length = state
        logits, cache = apply({"params": params}, ids, length + number, cache, method="decode_step")
        return logits, (cache, length)

    return Writer(prepare, begin, step)
