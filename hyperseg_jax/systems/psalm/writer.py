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

State = tuple[KeyValues, jax.Array]


def make_writer(model: Trunk, config: ml_collections.ConfigDict, *, tokens: str = "image_tokens") -> Writer:
    """Returns the Writer that answers one question about an image.

    tokens: name of the part with the image tokens, which may be in the features. The state of the Writer: the keys and values
    of the language model, and the position of the first generated token [B].
    """
    apply: Any = model.apply

    def begin(params: Any, batch: Batch, features: Mapping[str, Any], empty_slots: int) -> tuple[jax.Array, State]:
        if (prompts := batch["valid"].shape[1]) > 1:
            raise UserError(f"{prompts} prompts per image, but text is generated for one; set `prompts` of the task to 1")
        image_tokens = features.get(tokens)
        if image_tokens is None:
            image, *_ = jax.tree.leaves(batch["clip_images"])
            image_tokens = apply({"params": params}, normalize_for_llm(image[:, 0]), method="image_tokens")
        layout, past = Layout(**batch["layout"]), features["prefix"].past if "prefix" in features else None
        logits, length, cache = apply({"params": params}, image_tokens, layout, empty_slots, past, method="prefill")
        return logits[:, None, None], (cache, length)

    def step(params: Any, ids: jax.Array, number: jax.Array, state: State) -> tuple[jax.Array, State]:
        cache, length = state
        logits, cache = apply({"params": params}, ids[:, 0, 0], length + number, cache, method="decode_step")
        return logits[:, None, None], (cache, length)

    return Writer(begin, step)
