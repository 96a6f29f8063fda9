"""HyperSeg inference: masks with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.frames import run_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.hyperseg.objective import build_instances
from hyperseg_jax.systems.hyperseg.recognition import split_prompts
from hyperseg_jax.systems.hyperseg.temporal import FrameMemory
from hyperseg_jax.systems.system import Predict

Features = Mapping[str, Any]
SCORES = ("expression", "class", "region")
"""The kinds of scores that predictions use."""


def make_predict(model: HyperSeg, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function.

    Outputs: mask_logits; scores expression, class, region; embedding of the queries for tracking: of the "reid" head if a loss
    trains it, else the queries themselves; from the batch asked (bool: the prompt uses an expression), class_valid,
    region_valid; and written, the tokens of the names that were written, if the batch has "names".
    features: see `encoding`. memory: what the frames so far pass to the next one, see `temporal`; None before the first.
    """

    entities = Entities.from_config(config)
    embedding = "reid" if build_instances(config).trains_identities else "query"

    def predict_batch(
        params: Any, batch: Batch, features: Features, memory: FrameMemory | None = None
    ) -> tuple[dict[str, jax.Array], FrameMemory]:
        examples, prompts = batch["uses_expression"].shape
        if "names" in batch:
            batch, features, memory = split_prompts(batch, features, memory)
        of_prompts = {"asked": "uses_expression", "class_valid": "class_valid", "region_valid": "region_valid"}
        fixed = {name: batch[key].reshape(examples * prompts, *batch[key].shape[2:]) for name, key in of_prompts.items()}

        def frame_outputs(output: HyperSegOutput, _: int | jax.Array) -> dict[str, jax.Array]:
            scores = {kind: value for kind, value in output.prediction.scores.items() if kind in SCORES}
            outputs = {"mask_logits": output.prediction.mask_logits, "embedding": output.prediction.embeddings[embedding]}
            if output.written is not None:
                outputs["written"] = output.written
            if model.classifies_by_answer:
                scores["class_valid"] = output.named.reshape(fixed["class_valid"].shape)
            return fixed | outputs | scores

        outputs, memory = run_frames(model, params, batch, memory, frame_outputs, features, entities=entities)
        split = lambda x: jnp.moveaxis(x.reshape(len(x), examples, prompts, *x.shape[2:]), 0, 1)
        return jax.tree.map(split, outputs), memory.of_images(prompts) if "names" in batch else memory

    return predict_batch
