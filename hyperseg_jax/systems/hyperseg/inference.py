"""What HyperSeg answers: masks with scores, and text."""

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
from hyperseg_jax.systems.hyperseg.frames import normalise_clip, over_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.system import Predict

Features = Mapping[str, Any]


def predict(model: HyperSeg, config: ml_collections.ConfigDict) -> Predict:
    """Its outputs: mask_logits, expression, class, region, embedding (of queries, to be followed from frame to frame: of the
    "reid" head where the decoder has one), and what is asked: asked bool, class_valid, region_valid. features: see
    `encoding`. memory: the fine-grained query of the next frame; None before the first."""

    def of_batch(
        params: Any, batch: Batch, features: Features, memory: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        frames, prompts = batch["frame_valid"].shape[1], batch["uses_expression"].shape[1]
        split = lambda x: x.reshape(-1, prompts, *x.shape[1:])

        def of_frame(output: HyperSegOutput, _: int | jax.Array) -> dict[str, jax.Array]:
            scores = {kind: split(value) for kind, value in output.prediction.scores.items()}
            embeddings = output.prediction.embeddings
            followed = embeddings["reid"] if "reid" in embeddings else embeddings["query"]
            return {"mask_logits": split(output.prediction.mask_logits), **scores, "embedding": split(followed)}

        found, memory = over_frames(model, params, batch, memory, of_frame, features)
        found = jax.tree.map(lambda frames: jnp.moveaxis(frames, 0, 1), found)
        asked = {"asked": batch["uses_expression"], **{name: batch[name] for name in ("class_valid", "region_valid")}}
        return found | {name: jnp.repeat(value[:, None], frames, axis=1) for name, value in asked.items()}, memory

    return of_batch


def write(model: HyperSeg, config: ml_collections.ConfigDict) -> Writer:
    """The answer to one question about an image. The state: the keys and values of the language model, and the position of the
    first token [B]."""
    apply: Any = model.apply

    def begin(params: Any, batch: Batch, features: Features, room: int) -> tuple[jax.Array, tuple[KeyValues, jax.Array]]:
        if (prompts := batch["class_valid"].shape[1]) > 1:
            raise UserError(f"{prompts} prompts an image: HyperSeg writes the answer to one; set `prompts` of the task to 1")
        image_tokens = features.get("image_tokens")
        if image_tokens is None:
            image_tokens = apply({"params": params}, normalise_clip(batch["clip_images"][:, 0]), method="image_tokens")
        layout, prefix = Layout(**batch["layout"]), features.get("prefix")
        logits, length, kept = apply({"params": params}, image_tokens, layout, room, prefix, method="read")
        return logits[:, None, None], (kept, length)

    def step(
        params: Any, ids: jax.Array, number: jax.Array, state: tuple[KeyValues, jax.Array]
    ) -> tuple[jax.Array, tuple[KeyValues, jax.Array]]:
        kept, length = state
        logits, kept = apply({"params": params}, ids[:, 0, 0], length + number, kept, method="write")
        return logits[:, None, None], (kept, length)

    return Writer(begin, step)
