"""InstructSeg's training loss: masks, scores and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Float32, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.scores import BalancedScores
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts
from hyperseg_jax.losses.text import count_tokens
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.instructseg.inputs import layout_of, prompts_of
from hyperseg_jax.systems.instructseg.model import InstructSeg
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks
from hyperseg_jax.systems.psalm.text_loss import text_loss
from hyperseg_jax.systems.system import Loss


@flax.struct.dataclass
class Counts:
    """The divisors of the losses: targets of the mask and score losses, and supervised text tokens."""

    targets: TargetCounts
    tokens: Float32[DeviceArray, ""]


def make_counts(model: InstructSeg, config: ml_collections.ConfigDict) -> Callable[[Batch], Counts]:
    """Returns f(batch) -> Counts."""
    masks = build_criterion(config)

    def count_batch(batch: Batch) -> Counts:
        return Counts(masks.count(targets_of(batch), model.num_queries), count_tokens(jnp.asarray(layout_of(batch).labels)))

    return count_batch


def make_loss(model: InstructSeg, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss. Batches of a task without masks (images of size 0) have only the text loss; those of a task without
    `answered` have no text loss."""
    masks, text_weight = build_criterion(config), config.loss.text_weight

    def batch_loss(params: Any, batch: Batch, key: PRNGKeyArray, counts: Counts) -> tuple[jax.Array, dict[str, jax.Array]]:
        points_key, dropout_key = jax.random.split(key)
        layout, rngs = layout_of(batch), {"dropout": dropout_key}
        apply: Any = lambda *arrays, **rest: model.apply({"params": params}, *arrays, deterministic=False, rngs=rngs, **rest)
        clips = [normalize_for_llm(clip[:, 0]) for clip in batch["clip_images"].values()]
        text = lambda hidden: text_loss(model, params, hidden, jnp.asarray(layout.labels), 1 / jnp.maximum(counts.tokens, 1.0))
        if not batch["images"].shape[2]:
            loss = text(apply(clips[0], layout, method="text_hidden"))
            return text_weight * loss, {"text": loss}
        images = normalize_for_masks(batch["images"][:, 0])
        output = apply(images, jnp.stack(clips, axis=1), layout, **prompts_of(batch))
        losses = masks(output.prediction, targets_of(batch), key=points_key, counts=counts.targets)
        total, metrics = losses.total, {name: stages[-1] for name, stages in losses.terms.items()}
        if text_weight and "answered" in batch:
            metrics["text"] = text(output.hidden)
            total = total + text_weight * metrics["text"]
        return total, metrics

    return batch_loss


def build_criterion(config: ml_collections.ConfigDict) -> MaskCriterion:
    """Builds the mask criterion. config.loss has the fields of MaskCriterion, text_weight and expression_weight."""
    options = {name: value for name, value in config.loss.items() if name != "text_weight"}
    return MaskCriterion({"expression": BalancedScores(options.pop("expression_weight", 2.0))}, **options)


def targets_of(batch: Batch) -> MaskTargets:
    """Returns the mask targets of a batch, with images x prompts as rows."""
    rows = lambda array: rearrange(array, "b k ... -> (b k) ...")
    present = batch["frame_valid"] & ~batch["bad"][:, None]  # [B, 1]
    return MaskTargets(
        segments=rows(batch["segments"][:, :, :, 0]),
        planes=rows(batch["planes"]),
        valid=rows(batch["valid"] & present[..., None]),
        labels=rows(jnp.zeros_like(batch["planes"])),
        supervised={"expression": rows(batch["uses_expression"] & present)},
        columns={},
    )
