"""HyperSeg's training loss: masks, scores and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float32, Int, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.scores import BalancedScores, ClassScores, ScoreLoss
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts
from hyperseg_jax.losses.text import count_tokens, text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED, DeviceArray, Layout
from hyperseg_jax.systems.hyperseg.frames import normalize_for_llm, run_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.system import Loss


@flax.struct.dataclass
class FrameCounts:
    """The divisors of the losses for each frame, because the losses are averaged per frame.

    targets: divisors of mask and score losses. tokens: supervised text tokens. num_examples: number of examples with this
    frame; it decreases with the frame index in a batch of images and videos.
    """

    targets: TargetCounts
    tokens: Float32[DeviceArray, "*T"]
    num_examples: Float32[DeviceArray, "*T"]


def make_counts(model: HyperSeg, config: ml_collections.ConfigDict) -> Callable[[Batch], FrameCounts]:
    """Returns f(batch) -> FrameCounts. Padding frames are not counted."""
    masks = build_criterion(config)

    def count_batch(batch: Batch) -> FrameCounts:
        def count_frame(t: int) -> FrameCounts:
            targets, labels = frame_targets(batch, t)
            num_examples = batch["frame_valid"][:, t].sum().astype(jnp.float32)
            return FrameCounts(masks.count(targets, model.num_queries), count_tokens(labels), num_examples)

        every = map(count_frame, range(batch["frame_valid"].shape[1]))
        counts: FrameCounts = jax.tree.map(lambda *each: jnp.stack(each), *every)
        return counts

    return count_batch


def make_loss(model: HyperSeg, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss: the mean over frames of each frame's loss, weighted by the number of examples that have the frame.

    Batches of a task without masks (images of size 0) have only the text loss.
    """
    masks, text_weight = build_criterion(config), config.loss.text_weight
    head: Any = lambda params, hidden: model.language_head.apply({"params": params}, hidden)

    def text_loss(params: Any, hidden: jax.Array, labels: jax.Array, tokens: jax.Array) -> jax.Array:
        return text_cross_entropy_in_chunks(head, params["language_head"], hidden, labels, tokens=tokens)

    def batch_loss(params: Any, batch: Batch, key: jax.Array, counts: FrameCounts) -> tuple[jax.Array, dict[str, jax.Array]]:
        if not batch["images"].shape[2]:
            return loss_without_masks(params, batch, key, counts)

        def frame_loss(output: HyperSegOutput, t: int | jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            targets, labels = frame_targets(batch, t)
            divisors = jax.tree.map(lambda each: each[t], counts)
            losses = masks(output.prediction, targets, key=jax.random.fold_in(key, t), counts=divisors.targets)
            metrics = {name: stages[-1] for name, stages in losses.terms.items()}
            total = losses.total
            if text_weight:
                metrics["text"] = text_loss(params, output.hidden, labels, divisors.tokens)
                total = total + text_weight * metrics["text"]
            return total, metrics

        per_frame, _ = run_frames(
            model,
            params,
            batch,
            None,
            frame_loss,
            deterministic=False,
            rngs=dropout_rngs(key, batch),
        )
        share = counts.num_examples / jnp.maximum(counts.num_examples.sum(), 1.0)
        return jax.tree.map(lambda values: (values * share).sum(0), per_frame)

    def loss_without_masks(
        params: Any, batch: Batch, key: jax.Array, counts: FrameCounts
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the text loss of a batch of single images of a task without masks."""
        hidden: Any = model.apply(
            {"params": params},
            normalize_for_llm(batch["clip_images"][:, 0]),
            Layout(**batch["layout"]),
            deterministic=False,
            rngs=dropout_rngs(key, batch),
            method="text_hidden",
        )
        _, labels = frame_targets(batch, 0)
        text = text_loss(params, hidden, labels, counts.tokens[0])
        share = counts.num_examples[0] / jnp.maximum(counts.num_examples.sum(), 1.0)
        return text_weight * text * share, {"text": text * share}

    return batch_loss


def dropout_rngs(key: PRNGKeyArray, batch: Batch) -> dict[str, PRNGKeyArray]:
    """Returns the key of dropout; the keys 0 to T - 1 are those of the random points of T frames."""
    return {"dropout": jax.random.fold_in(key, batch["frame_valid"].shape[1])}


def build_criterion(config: ml_collections.ConfigDict) -> MaskCriterion:
    """Builds the mask criterion. config.loss has the fields of MaskCriterion, text_weight and the weights of the scores."""
    options = {name: value for name, value in config.loss.items() if name != "text_weight"}
    scores: dict[str, ScoreLoss] = {
        "expression": BalancedScores(options.pop("expression_weight", 2.0)),
        "class": ClassScores(
            options.pop("class_weight", 2.0), options.pop("background_weight", 0.1), options.pop("match_class_weight", 2.0)
        ),
        "region": BalancedScores(options.pop("region_weight", 2.0)),
    }
    return MaskCriterion(scores, **options)


def frame_targets(batch: Batch, t: int | Int[DeviceArray, ""]) -> tuple[MaskTargets, Int[jax.Array, "B L"]]:
    """Returns the mask targets of frame t, with images x prompts as rows, and the text labels.

    Examples without this frame have no targets and no labels.
    """
    rows = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B, K, ...] -> [B * K, ...]
    present = batch["frame_valid"][:, t, None]  # [B, 1]
    uses = {"expression": "uses_expression", "class": "uses_classes", "region": "uses_regions"}
    targets = MaskTargets(
        segments=rows(batch["segments"][:, :, :, t]),
        planes=rows(batch["planes"]),
        valid=rows(batch["valid"] & present[..., None]),
        labels=rows(batch["labels"]),
        supervised={kind: rows(batch[flag] & present) for kind, flag in uses.items()},
        columns={"class": rows(batch["class_valid"]), "region": rows(batch["region_valid"])},
    )
    return targets, jnp.where(present, batch["layout"]["labels"], IGNORED)
