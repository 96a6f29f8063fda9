"""What HyperSeg is trained for: masks, scores and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float32, Int

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.scores import BalancedScores, ClassScores, ScoreLoss
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts
from hyperseg_jax.losses.text import count_tokens, text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED, DeviceArray
from hyperseg_jax.systems.hyperseg.frames import over_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.system import Loss


@flax.struct.dataclass
class FrameCounts:
    """The divisors of the losses: those of every frame, as each has its own means. tokens: supervised tokens
    of text. shown: elements that have this frame; of a batch that mixes images and clips, fewer and fewer."""

    targets: TargetCounts
    tokens: Float32[DeviceArray, "*T"]
    shown: Float32[DeviceArray, "*T"]


def counts(model: HyperSeg, config: ml_collections.ConfigDict) -> Callable[[Batch], FrameCounts]:
    """f(batch) -> FrameCounts. A frame of padding counts nowhere."""
    masks = criterion(config)

    def of_batch(batch: Batch) -> FrameCounts:
        def of_frame(t: int) -> FrameCounts:
            targets, labels = asked(batch, t)
            shown = batch["frame_valid"][:, t].sum().astype(jnp.float32)
            return FrameCounts(masks.count(targets, model.num_queries), count_tokens(labels), shown)

        every = map(of_frame, range(batch["frame_valid"].shape[1]))
        found: FrameCounts = jax.tree.map(lambda *each: jnp.stack(each), *every)
        return found

    return of_batch


def loss(model: HyperSeg, config: ml_collections.ConfigDict) -> Loss:
    """With FrameCounts: of each frame a mean, and of those the mean weighted by the
    elements that have the frame."""
    masks, text_weight = criterion(config), config.loss.text_weight
    head: Any = lambda params, hidden: model.language_head.apply({"params": params}, hidden)

    def of_batch(params: Any, batch: Batch, key: jax.Array, counts: FrameCounts) -> tuple[jax.Array, dict[str, jax.Array]]:
        def of_frame(output: HyperSegOutput, t: int | jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            targets, labels = asked(batch, t)
            divisors = jax.tree.map(lambda each: each[t], counts)
            found = masks(output.prediction, targets, key=jax.random.fold_in(key, t), counts=divisors.targets)
            metrics = {name: stages[-1] for name, stages in found.terms.items()}
            total = found.total
            if text_weight:
                metrics["text"] = text_cross_entropy_in_chunks(
                    head, params["language_head"], output.hidden, labels, tokens=divisors.tokens
                )
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
        share = counts.shown / jnp.maximum(counts.shown.sum(), 1.0)
        return jax.tree.map(lambda values: (values * share).sum(0), found)

    return of_batch


def criterion(config: ml_collections.ConfigDict) -> MaskCriterion:
    """That of config.loss, whose other fields are those of MaskCriterion."""
    given = {name: value for name, value in config.loss.items() if name != "text_weight"}
    scores: dict[str, ScoreLoss] = {
        "expression": BalancedScores(given.pop("expression_weight", 2.0)),
        "class": ClassScores(
            given.pop("class_weight", 2.0), given.pop("background_weight", 0.1), given.pop("match_class_weight", 2.0)
        ),
        "region": BalancedScores(given.pop("region_weight", 2.0)),
    }
    return MaskCriterion(scores, **given)


def asked(batch: Batch, t: int | Int[DeviceArray, ""]) -> tuple[MaskTargets, Int[jax.Array, "B L"]]:
    """What is taught at frame t: the targets of rows that are images x prompts, and the labels of the text. Elements that
    lack the frame are taught nothing."""
    rows = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B, K, ...] -> [B * K, ...]
    there = batch["frame_valid"][:, t, None]  # [B, 1]
    uses = {"expression": "uses_expression", "class": "uses_classes", "region": "uses_regions"}
    targets = MaskTargets(
        segments=rows(batch["segments"][:, :, :, t]),
        planes=rows(batch["planes"]),
        valid=rows(batch["valid"] & there[..., None]),
        labels=rows(batch["labels"]),
        taught={kind: rows(batch[flag] & there) for kind, flag in uses.items()},
        columns={"class": rows(batch["class_valid"]), "region": rows(batch["region_valid"])},
    )
    return targets, jnp.where(there, batch["layout"]["labels"], IGNORED)
