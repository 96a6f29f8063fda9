"""SEEM's training loss: one pass about all objects, phrases and visual prompts of an image, after some interactive rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Int32, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.decoders.seem import SeemPrediction, SeemPrompts
from hyperseg_jax.errors import UserError
from hyperseg_jax.losses.targets import TargetCounts
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.seem import inputs
from hyperseg_jax.systems.seem.criterion import MARKS, PromptVectors, Targets, build_criteria, predictions_of
from hyperseg_jax.systems.seem.model import Seem, SeemImage
from hyperseg_jax.systems.seem.rounds import (
    QUERIES_PER_PROMPT,
    Choices,
    Marks,
    random_choices,
    round_prompts,
    simulate_rounds,
)
from hyperseg_jax.systems.system import Loss

Counts = dict[str, TargetCounts]


@flax.struct.dataclass
class Rounds:
    """The visual prompts of a batch. masks: of the objects that they mark. choices: of each round. count: of the rounds before
    the pass with gradients."""

    marks: Marks
    masks: Bool[DeviceArray, "B N H W"]
    choices: Choices
    count: Int32[DeviceArray, ""] | int


def answer_prompts(
    model: Seem,
    params: Any,
    image: SeemImage,
    *,
    objects: bool,
    text: tuple[Float[DeviceArray, "B T E"], Bool[DeviceArray, "B T"]] | None,
    rounds: Rounds | None,
) -> SeemPrediction:
    """Answers all prompts about encoded images in one pass of the decoder. text: tokens of the phrases, and which are valid."""
    apply: Any = lambda params, image, prompts, objects: model.apply(
        {"params": params}, image, prompts, objects=objects, method="decode"
    )
    prompts = SeemPrompts()
    if rounds is not None:
        size = image.mask_features.shape[1], image.mask_features.shape[2]
        constant = jax.lax.stop_gradient((params, image))
        decode = lambda prompts: apply(*constant, prompts, False)
        marks, previous = simulate_rounds(decode, rounds.marks, rounds.masks, rounds.choices, rounds.count, size)
        prompts = round_prompts(marks, rounds.choices, rounds.count, previous, jnp.asarray(rounds.count) > 0)
    if text is not None:
        prompts = prompts.replace(text=text[0], text_valid=text[1])  # type: ignore[attr-defined]
    prediction: SeemPrediction = apply(params, image, prompts, objects)
    return prediction


def make_counts(model: Seem, config: ml_collections.ConfigDict) -> Callable[[Batch], Counts]:
    """Returns f(batch) -> Counts."""
    criteria = build_criteria(config)

    def count_batch(batch: Batch) -> Counts:
        queries = lambda kind: QUERIES_PER_PROMPT if kind == MARKS else model.decoder.num_queries
        return {kind: criteria[kind].count(targets, queries(kind)) for kind, targets in inputs.targets_of(batch).items()}

    return count_batch


UNTRAINED = {"v0": ("regions",), "demo": ("regions", "phrases")}
"""Prompts that a variant cannot train: v0 reads only one visual prompt, and demo has no queries for single prompts."""


def check_prompts(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a task in training has prompts that the variant of the decoder cannot train."""
    variant = config.model.mask_decoder.variant
    for name, block in config.data.tasks.items():
        for field in UNTRAINED.get(variant, ()) if block.ratio else ():
            if block.get(field, 0):
                raise UserError(
                    f"data.tasks.{name}.{field} = {block[field]}: variant {variant!r} cannot be trained with them; give 0, or "
                    "train a model of variant 'v1'"
                )


def make_loss(model: Seem, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss. config.loss.rounds is the maximum number of rounds before the pass with gradients; the number is drawn
    uniformly from 0 to it. config.data.padding: see inputs.training_images. Raises UserError if a task has prompts that the
    variant of the decoder cannot train."""
    check_prompts(config)
    criteria, most_rounds, padding = build_criteria(config), config.loss.rounds, config.data.get("padding", "zero")

    def batch_loss(params: Any, batch: Batch, key: PRNGKeyArray, counts: Counts) -> tuple[jax.Array, dict[str, jax.Array]]:
        choices_key, rounds_key, points_key = jax.random.split(key, 3)
        images = inputs.training_images(batch, padding)
        image: Any = model.apply({"params": params}, images, method="encode_image")
        targets, text, phrases, classes, rounds = inputs.targets_of(batch), None, None, None, None
        if batch["phrase_ids"].shape[1]:
            tokens, valid, phrases = inputs.encode_phrases(model, params, batch["phrase_ids"], batch["phrase_present"])
            text = tokens, valid
        if batch["class_valid"].shape[1]:
            classes = inputs.class_vectors(model, params, batch["class_ids"], batch["class_list"])
        if batch["region_valid"].shape[1]:
            marked = batch["region_valid"]
            masks = targets[MARKS].masks.reshape(*marked.shape, *targets[MARKS].segments.shape[2:])
            choices = random_choices(model.decoder, choices_key, most_rounds + 1, marked)
            count = jax.random.randint(rounds_key, (), 0, most_rounds + 1)
            rounds = Rounds(inputs.marks_of(batch), masks, choices, count)
        prediction = answer_prompts(model, params, image, objects=classes is not None, text=text, rounds=rounds)
        vectors = PromptVectors(classes, phrases, params["log_scale"])
        return mask_losses(criteria, prediction, vectors, image, targets, points_key, counts)

    return batch_loss


def mask_losses(
    criteria: Any,
    prediction: SeemPrediction,
    vectors: PromptVectors,
    image: SeemImage,
    targets: Targets,
    key: PRNGKeyArray,
    counts: Counts,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum of the losses of all kinds, and each loss of the last stage by name."""
    total, metrics = jnp.zeros(()), dict[str, jax.Array]()
    predictions = predictions_of(prediction, vectors, image.mask_features)
    for kind, key_of_kind in zip(predictions, jax.random.split(key, len(predictions)), strict=True):
        losses = criteria[kind](predictions[kind], targets[kind], key=key_of_kind, counts=counts[kind])
        total += losses.total
        metrics |= {f"{kind}_{name}": stages[-1] for name, stages in losses.terms.items()}
    return total, metrics
