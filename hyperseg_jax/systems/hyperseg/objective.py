"""HyperSeg's training loss: masks, scores and text, and if their weights are set, boxes and identities of instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Bool, Float32, Int, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.decoders.mask2former import HEADS as DECODER_HEADS
from hyperseg_jax.losses.boxes import segment_boxes
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.instances import HEADS, FrameInstances, InstanceCriterion, count_pairs
from hyperseg_jax.losses.masks import MASKED
from hyperseg_jax.losses.scores import BalancedScores, ClassScores, ScoreLoss
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts
from hyperseg_jax.losses.text import count_tokens
from hyperseg_jax.structs import IGNORED, DeviceArray, Layout, MaskPrediction
from hyperseg_jax.systems.hyperseg.frames import run_frames
from hyperseg_jax.systems.hyperseg.model import HyperSeg, HyperSegOutput
from hyperseg_jax.systems.moments import moments
from hyperseg_jax.systems.pixels import normalize_for_llm
from hyperseg_jax.systems.psalm.text_loss import text_loss
from hyperseg_jax.systems.system import Loss, Metrics


@flax.struct.dataclass
class FrameCounts:
    """The divisors of the losses for each frame, because the losses are averaged per frame.

    targets: divisors of mask and score losses. tokens: supervised text tokens. num_examples: number of examples with this
    frame; it decreases with the frame index in a batch of images and videos. boxes: targets with pixels. pairs: of such a
    target and another frame that shows it. Both are None if no loss of instances is on.
    """

    targets: TargetCounts
    tokens: Float32[DeviceArray, "*T"]
    num_examples: Float32[DeviceArray, "*T"]
    boxes: Float32[DeviceArray, "*T"] | None = None
    pairs: Float32[DeviceArray, "*T"] | None = None


def make_counts(model: HyperSeg, config: ml_collections.ConfigDict) -> Callable[[Batch], FrameCounts]:
    """Returns f(batch) -> FrameCounts. Padding frames are not counted."""
    masks, instances = build_criterion(config), build_instances(config)

    def count_batch(batch: Batch) -> FrameCounts:
        def count_frame(t: int) -> FrameCounts:
            num_examples = batch["frame_valid"][:, t].sum().astype(jnp.float32)
            tokens = count_tokens(frame_labels(batch)[:, t])
            return FrameCounts(masks.count(frame_targets(batch, t), model.num_queries), tokens, num_examples)

        every = map(count_frame, range(batch["frame_valid"].shape[1]))
        counts: FrameCounts = jax.tree.map(lambda *each: jnp.stack(each), *every)
        if instances.trains_boxes:
            frames = [frame_targets(batch, t) for t in range(len(counts.num_examples))]
            visible = [visible_boxes(targets)[1] for targets in frames]
            identities = jnp.stack([have_identities(*each) for each in zip(frames, visible, strict=True)])
            boxes = jnp.stack([each.sum().astype(jnp.float32) for each in visible])
            counts = dataclasses.replace(counts, boxes=boxes, pairs=count_pairs(identities))
        return counts

    return count_batch


def make_loss(model: HyperSeg, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss: the mean over frames of each frame's loss, weighted by the number of examples that have the frame.

    Batches of a task without masks (images of size 0) have only the text loss. The metrics also have the moments of each gate,
    "gates/PATH", over all frames; they are NaN, which no mean of steps includes, if all elements are blank.
    """
    masks, text_weight = build_criterion(config), config.loss.text_weight
    instances = build_instances(config)

    def frames_text_loss(params: Any, hidden: jax.Array, batch: Batch, counts: FrameCounts, share: jax.Array) -> jax.Array:
        """Returns the text loss of the hidden states [T, B, L, D]. share: weight of each frame."""
        labels = frame_labels(batch)
        weights = jnp.broadcast_to(share / jnp.maximum(counts.tokens, 1.0), labels.shape[:2])
        rows = rearrange(hidden, "frames b l d -> (b frames) l d")
        return text_loss(model, params, rows, rearrange(labels, "b frames l -> (b frames) l"), weights.reshape(-1))

    def batch_loss(params: Any, batch: Batch, key: jax.Array, counts: FrameCounts) -> tuple[jax.Array, dict[str, jax.Array]]:
        num_frames = counts.num_examples.sum()
        share = counts.num_examples / jnp.maximum(num_frames, 1.0)
        if not batch["images"].shape[2]:
            text = frames_text_loss(params, text_hidden(params, batch, key)[None], batch, counts, share)
            return text_weight * text, {"text": text}

        follows = instances.trains_identities and len(share) > 1 and batch["class_valid"].shape[2] > 0

        def frame_loss(output: HyperSegOutput, t: int | jax.Array) -> tuple[Any, ...]:
            targets = frame_targets(batch, t)
            divisors = jax.tree.map(lambda each: each[t], counts.targets)
            losses = masks(output.prediction, targets, key=jax.random.fold_in(key, t), counts=divisors)
            total, terms, seen = losses.total, losses.terms, None
            if instances.trains_boxes and counts.boxes is not None:
                boxes, visible = visible_boxes(targets)
                added = instances.box_terms(output.prediction, losses.query_of_target, boxes, visible, counts.boxes[t])
                total += sum(getattr(instances, f"{name}_weight") * stages.sum() for name, stages in added.items())
                terms = terms | added
                if follows:
                    seen = frame_instances(output.prediction, targets, losses.query_of_target[-1], boxes, visible)
            metrics = {name: stages[-1] for name, stages in terms.items()}
            weights = batch["frame_valid"][:, t] / jnp.maximum(num_frames, 1.0)
            gates: Metrics = {}
            for path, values in output.gates.items():
                gates |= moments(f"gates/{path}", values, weights)
            return total, metrics, gates, output.hidden if text_weight else None, seen

        (*per_frame, gates, hidden, seen), _ = run_frames(
            model, params, batch, None, frame_loss, dropout_key=dropout_key(key, batch), deterministic=False
        )
        total, metrics = jax.tree.map(lambda values: (values * share).sum(0), tuple(per_frame))
        metrics |= {name: jnp.where(num_frames > 0, values.sum(0), jnp.nan) for name, values in gates.items()}
        if follows and counts.pairs is not None:
            labels = frame_targets(batch, 0).labels
            added = instances.identity_terms(seen, labels, counts.pairs.sum(), key=jax.random.fold_in(key, len(share) + 1))
            total += sum(getattr(instances, f"{name}_weight") * value for name, value in added.items())
            metrics |= added
        if text_weight:
            # Once for all frames, because the head is the largest matrix.
            metrics["text"] = frames_text_loss(params, hidden, batch, counts, share)
            total = total + text_weight * metrics["text"]
        return total, metrics

    def text_hidden(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns the hidden states of a batch of single images of a task without masks."""
        hidden: Any = model.apply(
            {"params": params},
            normalize_for_llm(batch["clip_images"][:, 0]),
            Layout(**batch["layout"]),
            deterministic=False,
            rngs={"dropout": dropout_key(key, batch)},
            method="text_hidden",
        )
        return hidden  # type: ignore[no-any-return]

    return batch_loss


def dropout_key(key: PRNGKeyArray, batch: Batch) -> PRNGKeyArray:
    """Returns the key of dropout; the keys 0 to T - 1 are those of the random points of T frames, and T + 1 is that of the
    queries that re-identification compares."""
    return jax.random.fold_in(key, batch["frame_valid"].shape[1])


def build_criterion(config: ml_collections.ConfigDict) -> MaskCriterion:
    """Builds the mask criterion. config.loss has the fields of MaskCriterion and InstanceCriterion, text_weight and the weights
    of the scores."""
    options = {name: value for name, value in config.loss.items() if name != "text_weight" and name not in HEADS}
    scores: dict[str, ScoreLoss] = {
        "expression": BalancedScores(options.pop("expression_weight", 2.0)),
        "class": ClassScores(
            options.pop("class_weight", 2.0), options.pop("background_weight", 0.1), options.pop("match_class_weight", 2.0)
        ),
        "region": BalancedScores(options.pop("region_weight", 2.0)),
    }
    return MaskCriterion(scores, **options)


def build_instances(config: ml_collections.ConfigDict) -> InstanceCriterion:
    """Builds the criterion of instances. Raises UserError if the model lacks a head that it needs."""
    return InstanceCriterion.from_fields(config.loss.to_dict(), config.model.mask_decoder.get("heads", tuple(DECODER_HEADS)))


def frame_targets(batch: Batch, t: int | Int[DeviceArray, ""]) -> MaskTargets:
    """Returns the mask targets of frame t, with images x prompts as rows. Examples without this frame have no targets."""
    rows = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B, K, ...] -> [B * K, ...]
    present = batch["frame_valid"][:, t, None]  # [B, 1]
    uses = {"expression": "uses_expression", "class": "uses_classes", "region": "uses_regions"}
    return MaskTargets(
        segments=rows(batch["segments"][:, :, :, t]),
        planes=rows(batch["planes"]),
        valid=rows(batch["valid"] & present[..., None]),
        labels=rows(batch["labels"]),
        supervised={kind: rows(batch[flag] & present) for kind, flag in uses.items()},
        columns={"class": rows(batch["class_valid"]), "region": rows(batch["region_valid"])},
    )


def visible_boxes(targets: MaskTargets) -> tuple[Float32[jax.Array, "B N 4"], Bool[jax.Array, "B N"]]:
    """Returns the box of each target, and whether the target is valid and has pixels."""
    boxes, seen = segment_boxes(targets.segments, targets.planes)
    return boxes, seen & targets.valid


def have_identities(targets: MaskTargets, visible: Bool[DeviceArray, "B N"]) -> Bool[jax.Array, "B N"]:
    """Returns the visible targets whose identity is trained: those of class lists, where a target is one object."""
    return visible & targets.supervised["class"][:, None]


def frame_instances(
    prediction: MaskPrediction,
    targets: MaskTargets,
    query_of_target: Int[DeviceArray, "B N"],
    boxes: Float32[DeviceArray, "B N 4"],
    visible: Bool[DeviceArray, "B N"],
) -> FrameInstances:
    """Returns what re-identification compares of a frame. boxes, visible: of `visible_boxes`."""
    logits = jnp.where(targets.columns["class"][:, None], prediction.scores["class"].astype(jnp.float32), MASKED)
    assert prediction.boxes is not None
    return FrameInstances(
        prediction.embeddings["reid"],
        prediction.boxes,
        jax.nn.softmax(logits),
        query_of_target,
        boxes,
        have_identities(targets, visible),
    )


def frame_labels(batch: Batch) -> Int[jax.Array, "B T L"]:
    """Returns the text labels of all frames. Examples without a frame have no labels in it."""
    return jnp.where(batch["frame_valid"][..., None], batch["layout"]["labels"][:, None], IGNORED)
