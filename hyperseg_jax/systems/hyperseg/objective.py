"""What HyperSeg is trained for: masks, scores and text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.targets import MaskTargets
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.hyperseg.frames import over_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput


def loss(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, key) -> (total, metrics), means over the frames of the batch; a frame of padding counts nowhere."""
    criterion = MaskCriterion(**{name: value for name, value in config.loss.items() if name != "text_weight"})
    text_weight = config.loss.text_weight
    head: Any = lambda params, hidden: model.language_head.apply({"params": params}, hidden)

    def of_batch(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B, K, ...] -> [B * K, ...]
        given = {name: rows(batch[name]) for name in ("planes", "labels", "class_valid", "region_valid")}
        taught = {name: batch[name] for name in ("valid", "uses_expression", "uses_classes", "uses_regions")}

        def of_frame(output: HyperSegOutput, t: int | jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            there = batch["frame_valid"][:, t, None]  # [B, 1]
            asked = {name: rows(x & there.reshape(-1, *[1] * (x.ndim - 1))) for name, x in taught.items()}
            labels = jnp.where(there, batch["layout"]["labels"], IGNORED)
            targets = MaskTargets(segments=rows(batch["segments"][:, :, :, t]), **given, **asked)
            found = criterion(output.prediction, targets, key=jax.random.fold_in(key, t))
            metrics = {name: stages[-1] for name, stages in found.terms.items()}
            total = found.total
            if text_weight:
                metrics["text"] = text_cross_entropy_in_chunks(head, params["language_head"], output.hidden, labels)
                total = total + text_weight * metrics["text"]
            return total, metrics

        found, _ = over_frames(
            model,
            params,
            batch,
            None,
            of_frame,
            deterministic=False,
            rngs={"dropout": jax.random.fold_in(key, batch["images"].shape[1])},
        )
        shown = batch["frame_valid"].sum(0).astype(jnp.float32)  # of a batch that mixes pictures and clips, fewer and fewer
        share = shown / jnp.maximum(shown.sum(), 1.0)
        return jax.tree.map(lambda values: (values * share).sum(0), found)

    return of_batch
