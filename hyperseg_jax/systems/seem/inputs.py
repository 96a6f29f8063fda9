"""The arrays of a batch as the inputs of the model, on the device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.encoders.clip_text import select_end
from hyperseg_jax.losses.targets import MaskTargets
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.pixels import normalize_for_masks, normalize_padded
from hyperseg_jax.systems.seem.criterion import MARKS, OBJECTS, PHRASES, Targets
from hyperseg_jax.systems.seem.model import Seem, average_templates
from hyperseg_jax.systems.seem.rounds import Marks

TEXTS = 256
"""Number of sentences that are encoded at once."""


def training_images(batch: Batch, padding: str) -> Float[jax.Array, "B H W 3"]:
    """Returns the normalized images of a training batch. padding: "zero": 0 after normalization, as in prediction; "grey": what
    the images have outside of their filled part, as published for training."""
    images = batch["images"][:, 0]
    return normalize_for_masks(images) if padding == "grey" else normalize_padded(images, batch["filled"])


def class_vectors(
    model: Seem, params: Any, ids: Int[DeviceArray, "B K T L"], lists: Int[DeviceArray, "B 8"]
) -> Float[jax.Array, "B K E"]:
    """Returns the vectors of the classes of each row, each the mean over its T templates.

    lists: a digest of the names of each row. If all rows have the same names, as usual, the list is encoded once: in training
    with the random sentences of the first row, as the authors draw them once for a batch.
    """

    def encode(of_row: Int[DeviceArray, "K T L"]) -> jax.Array:
        one_class = lambda texts: model.apply({"params": params}, texts, method="text_vectors")
        return average_templates(jax.lax.map(one_class, of_row, batch_size=max(1, TEXTS // of_row.shape[1])))

    def encode_once() -> jax.Array:
        return jnp.broadcast_to(encode(ids[0]), (ids.shape[0], ids.shape[1], model.decoder.class_dim))

    return jax.lax.cond((lists == lists[0]).all(), encode_once, lambda: jax.lax.map(encode, ids))


def encode_phrases(
    model: Seem, params: Any, ids: Int[DeviceArray, "B N L"], present: Bool[DeviceArray, "B N"]
) -> tuple[Float[jax.Array, "B NL E"], Bool[jax.Array, "B NL"], Float[jax.Array, "B N E"]]:
    """Returns the tokens of all phrases of an image, which of them are no padding, and a vector for each phrase."""
    (batch, count, length), end = ids.shape, model.text_encoder.end_id
    flat = ids.reshape(batch * count, length)
    tokens: Any = model.apply({"params": params}, flat, method="encode_text")
    ends = jnp.argmax(flat == end, axis=1)
    valid = (jnp.arange(length) <= ends[:, None]).reshape(batch, count, length) & present[..., None]
    vectors = select_end(tokens, flat, end).reshape(batch, count, -1)
    return tokens.reshape(batch, count * length, -1), valid.reshape(batch, -1), vectors


def marks_of(batch: Batch) -> Marks:
    """Returns the visual prompts of a batch."""
    draws = range(batch["marked_points"].shape[1])
    names = ("marked_points", "marked_prompt", "marked_positive")
    points = tuple(MarkedPoints(*(jnp.asarray(batch[name])[:, k] for name in names)) for k in draws)
    if "drawn" not in batch:
        return Marks(points)
    drawn = jnp.unpackbits(batch["drawn"], axis=-1).astype(bool)
    return Marks(points, drawn, jnp.zeros_like(drawn))


def targets_of(batch: Batch) -> Targets:
    """Returns the targets by kind, for the kinds of prompts that the batch has."""
    present = ~batch["bad"]
    result = {}
    if batch["class_valid"].shape[1]:
        result[OBJECTS] = _targets(batch, "", present, {"class": present}, {"class": batch["class_valid"]})
    if batch["phrase_ids"].shape[1]:
        kinds = {"sentence": present & batch["is_sentence"], "name": present & ~batch["is_sentence"]}
        result[PHRASES] = _targets(batch, "phrase_", present, kinds, {})
    if batch["region_valid"].shape[1]:
        rows = _targets(batch, "region_", present, {}, {})
        prompts = rows.valid.shape[1]
        # Each prompt is a row, which shares the segment maps of its image.
        by_prompt = lambda array: array.reshape(-1, 1)
        masks = jnp.where(rows.masks, jnp.uint8(1), jnp.uint8(0))
        result[MARKS] = MaskTargets(
            segments=masks.reshape(-1, 1, *masks.shape[2:]),
            planes=jnp.zeros((masks.shape[0] * prompts, 1), jnp.int32),
            valid=by_prompt(rows.valid),
            labels=jnp.zeros((masks.shape[0] * prompts, 1), jnp.int32),
            supervised={"mark": jnp.repeat(present, prompts)},
        )
    return result


def _targets(batch: Batch, prefix: str, present: jax.Array, supervised: Any, columns: Any) -> MaskTargets:
    return MaskTargets(
        segments=batch[f"{prefix}segments"][:, :, 0],
        planes=batch[f"{prefix}planes"],
        valid=batch[f"{prefix}valid"] & present[:, None],
        labels=batch[f"{prefix}labels"],
        supervised=supervised,
        columns=columns,
    )
