"""HyperSeg inference: masks with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.hyperseg.frames import run_frames
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
