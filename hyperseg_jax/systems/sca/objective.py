"""SCA's training loss: the cross-entropy of the captions, with label smoothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Float32, Int, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.sam.inference import prompts_of
from hyperseg_jax.systems.sca.model import Sca, SeenRegions
from hyperseg_jax.systems.system import Counts, Loss, Metrics


def make_counts(model: Sca, config: ml_collections.ConfigDict) -> Callable[[Batch], Counts]:
    """Returns f(batch) -> the number of supervised tokens."""
    return lambda batch: (labels_of(batch) != IGNORED).sum().astype(jnp.float32)


def labels_of(batch: Batch) -> Int[jax.Array, "M T"]:
    """Returns the target tokens of all regions; IGNORED at padding, and for unreadable examples and absent regions."""
    supervised = batch["caption_mask"] & ~batch["bad"][:, None, None] & batch["region_valid"][..., None]
    return rearrange(jnp.where(supervised, batch["caption_ids"], IGNORED), "b r t -> (b r) t")


def make_loss(model: Sca, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss: the cross-entropy of the target tokens, averaged over those of the batch. The dropout of the language
    model is active, although it is frozen, as published."""
    smoothing = config.loss.label_smoothing

    def head_logits(head: Any, hidden: jax.Array) -> jax.Array:
        logits: jax.Array = model.apply({"params": head}, hidden, method="logits")  # type: ignore[assignment]
        return logits

    def loss(params: Any, batch: Batch, key: PRNGKeyArray, counts: Counts) -> tuple[Float32[jax.Array, ""], Metrics]:
        apply: Any = lambda *inputs, **options: model.apply({"params": params}, *inputs, **options)
        image = apply(normalize_padded(batch["images"][:, 0], batch["filled"]), method="encode_image")
        seen: SeenRegions = apply(image, prompts_of(batch), batch["task"], method="see")
        ids, mask = batch["caption_ids"], batch["caption_mask"]
        hidden = apply(seen.prefix, ids, mask, False, rngs={"dropout": key}, method="read")
        hidden, labels = rearrange(hidden, "b r t d -> (b r) t d"), labels_of(batch)
        head = {"llm": {name: part for name, part in params["llm"].items() if name in ("tokens", "head")}}
        total = text_cross_entropy_in_chunks(
            head_logits,
            head,
            hidden,
            jnp.pad(labels, ((0, 0), (1, 0)), constant_values=IGNORED),
            weights=jnp.full(len(labels), 1 / jnp.maximum(counts, 1)),
            smoothing=smoothing,
        )
        return total, {"caption": total}

    return loss
