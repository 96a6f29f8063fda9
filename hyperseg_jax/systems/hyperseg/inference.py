"""What HyperSeg answers: masks with scores, and text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.generate import greedy
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.frames import normalise, over_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput


def predict(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, memory) -> (arrays [B, T, K, ...], memory). The arrays: mask_logits, expression, class, region,
    embedding (of queries, to be followed from frame to frame: of the "reid" head where the decoder has one), and what is asked:
    asked bool, class_valid, region_valid. memory: the fine-grained query of the next frame; None before the first."""

    def of_batch(params: Any, batch: Batch, memory: jax.Array | None = None) -> tuple[dict[str, jax.Array], jax.Array]:
        prompts = batch["uses_expression"].shape[1]
        split = lambda x: x.reshape(-1, prompts, *x.shape[1:])

        def of_frame(output: HyperSegOutput, _: int | jax.Array) -> dict[str, jax.Array]:
            scores = {kind: split(value) for kind, value in output.prediction.scores.items()}
            embeddings = output.prediction.embeddings
            followed = embeddings["reid"] if "reid" in embeddings else embeddings["query"]
            return {"mask_logits": split(output.prediction.mask_logits), **scores, "embedding": split(followed)}

        found, memory = over_frames(model, params, batch, memory, of_frame)
        found = jax.tree.map(lambda frames: jnp.moveaxis(frames, 0, 1), found)
        asked = {"asked": batch["uses_expression"], **{name: batch[name] for name in ("class_valid", "region_valid")}}
        frames = batch["images"].shape[1]
        return found | {name: jnp.repeat(value[:, None], frames, axis=1) for name, value in asked.items()}, memory

    return of_batch


def generate(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, *, max_new_tokens, eos_id, vocab_size) -> int32 [B, max_new_tokens]: the answer to one question a
    picture, word by word; eos_id behind its end. Ids from vocab_size on are never written."""

    def of_batch(params: Any, batch: Batch, *, max_new_tokens: int, eos_id: int, vocab_size: int) -> jax.Array:
        layout = Layout(**batch["layout"])
        _, clip_images = normalise(batch["images"][:, 0], batch["clip_images"][:, 0])
        found: Any = model.apply({"params": params}, clip_images, layout, max_new_tokens, method="read")
        logits, length, kept = found

        def step(ids: jax.Array, number: jax.Array, kept: KeyValues) -> Any:
            return model.apply({"params": params}, ids, length + number, kept, method="write")

        return greedy(
            logits,
            step,
            kept,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            vocab_size=min(vocab_size, config.model.llm.vocab_size),
        )

    return of_batch
