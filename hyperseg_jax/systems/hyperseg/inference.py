"""HyperSeg inference: masks with scores, and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.frames import normalize_for_llm, run_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.system import Predict

Features = Mapping[str, Any]
SCORES = ("expression", "class", "region")
"""The kinds of scores that predictions use; no loss trains the decoder's other heads."""


def make_predict(model: HyperSeg, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function.

    Outputs: mask_logits; scores expression, class, region; embedding of the queries for tracking (the "reid" head is
    untrained); and from the batch asked (bool: the prompt uses an expression), class_valid, region_valid.
    features: see `encoding`. memory: the fine-grained query for the next frame; None before the first.
    """

    def predict_batch(
        params: Any, batch: Batch, features: Features, memory: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        frames, prompts = batch["frame_valid"].shape[1], batch["uses_expression"].shape[1]
        split = lambda x: x.reshape(-1, prompts, *x.shape[1:])

        def frame_outputs(output: HyperSegOutput, _: int | jax.Array) -> dict[str, jax.Array]:
            scores = {kind: split(value) for kind, value in output.prediction.scores.items() if kind in SCORES}
            embeddings = output.prediction.embeddings
            return {"mask_logits": split(output.prediction.mask_logits), **scores, "embedding": split(embeddings["query"])}

        outputs, memory = run_frames(model, params, batch, memory, frame_outputs, features)
        outputs = jax.tree.map(lambda frames: jnp.moveaxis(frames, 0, 1), outputs)
        prompt_arrays = {"asked": batch["uses_expression"], **{name: batch[name] for name in ("class_valid", "region_valid")}}
        return outputs | {name: jnp.repeat(value[:, None], frames, axis=1) for name, value in prompt_arrays.items()}, memory

    return predict_batch


def make_writer(model: HyperSeg, config: ml_collections.ConfigDict) -> Writer:
    """Returns the Writer that answers one question about an image.

    Its state: the keys and values of the language model, and the position of the first generated token [B].
    """
    apply: Any = model.apply

    def begin(params: Any, batch: Batch, features: Features, empty_slots: int) -> tuple[jax.Array, tuple[KeyValues, jax.Array]]:
        if (prompts := batch["class_valid"].shape[1]) > 1:
            raise UserError(f"{prompts} prompts per image, but HyperSeg generates text for one; set `prompts` of the task to 1")
        image_tokens = features.get("image_tokens")
        if image_tokens is None:
            image_tokens = apply({"params": params}, normalize_for_llm(batch["clip_images"][:, 0]), method="image_tokens")
        layout, prefix = Layout(**batch["layout"]), features.get("prefix")
        logits, length, cache = apply({"params": params}, image_tokens, layout, empty_slots, prefix, method="prefill")
        return logits[:, None, None], (cache, length)

    def step(
        params: Any, ids: jax.Array, number: jax.Array, state: tuple[KeyValues, jax.Array]
    ) -> tuple[jax.Array, tuple[KeyValues, jax.Array]]:
        cache, length = state
        logits, cache = apply({"params": params}, ids[:, 0, 0], length + number, cache, method="decode_step")
        return logits[:, None, None], (cache, length)

    return Writer(begin, step)
