"""Interactive rounds: marked pixels, the queries and memory tokens of each round, and the rounds of a simulated user."""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int32, PRNGKeyArray

from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.decoders.seem import SeemDecoder, SeemPrediction, SeemPrompts
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.ops.simulated_clicks import Clicks, add_squares, choose_clicks
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.seem.scores import choose_masks, mark_logits

QUERIES_PER_PROMPT = 3
"""Copies of object queries for each visual prompt (v1)."""
CLICK_PIXELS = 9
"""Pixels of a simulated click, a square of 3 x 3."""


@flax.struct.dataclass
class Marks:
    """The visual prompts of a batch: marked pixels as points, for the mean features and for each level, and as masks.

    points have room for further clicks at the end. positive, negative: None if no clicks are simulated.
    """

    points: tuple[MarkedPoints, ...]
    positive: Bool[DeviceArray, "B N H W"] | None = None
    negative: Bool[DeviceArray, "B N H W"] | None = None


@flax.struct.dataclass
class Choices:
    """The choices of each round: the object query that each copy is of, and the prompt of each memory token in each layer."""

    query_index: Int32[DeviceArray, "rounds NQ"]
    slots: Int32[DeviceArray, "rounds layers *B M"]


def random_choices(decoder: SeemDecoder, key: PRNGKeyArray, rounds: int, valid: Bool[DeviceArray, "B N"]) -> Choices:
    """Draws the choices of training, as published: queries and prompts uniformly with replacement. valid: the prompts of each
    image, any of the N; memory tokens belong to these alone."""
    query_key, slot_key = jax.random.split(key)
    batch, prompts = valid.shape
    queries = jax.random.randint(query_key, (rounds, prompts * QUERIES_PER_PROMPT), 0, decoder.num_queries)
    drawn = jax.random.uniform(slot_key, (rounds, decoder.num_layers, batch, decoder.num_memories))
    number = (drawn * jnp.maximum(valid.sum(1), 1)[:, None]).astype(jnp.int32)
    valid_first = jnp.argsort(~valid, axis=1, stable=True).astype(jnp.int32)
    slots = jnp.take_along_axis(valid_first[None, None], number, axis=-1)
    return Choices(queries, jnp.sort(slots, axis=-1))


def fixed_choices(decoder: SeemDecoder, known: Bool[DeviceArray, "B N"]) -> Choices:
    """Returns the choices of prediction: queries at equal distances, and an equal number of memory tokens for each prompt with
    a mask of the last round. known: which prompts have one, the first ones of each image."""
    count = known.shape[1] * QUERIES_PER_PROMPT
    queries = jnp.arange(count) * decoder.num_queries // count
    remembered = known.sum(1)[:, None]
    even = jnp.arange(decoder.num_memories) * remembered // decoder.num_memories
    slots = jnp.where(remembered > 0, even, -1)
    return Choices(queries[None], jnp.broadcast_to(slots, (1, decoder.num_layers, *slots.shape)))


def round_prompts(
    marks: Marks,
    choices: Choices,
    number: Int32[DeviceArray, ""] | int,
    previous: Float[DeviceArray, "B N h w"],
    remembers: Bool[DeviceArray, ""] | bool,
) -> SeemPrompts:
    """Returns the visual prompts of a round. previous: mask logits of the last round. remembers: False in the first round; its
    memory tokens belong to no prompt, so that they change nothing."""
    slots = jnp.where(remembers, jnp.asarray(choices.slots)[number], -1)
    return SeemPrompts(
        marked=marks.points,
        query_index=jnp.asarray(choices.query_index)[number],
        previous=previous,
        slots=slots,
        num_prompts=previous.shape[1],
    )


@flax.struct.dataclass
class MarkAnswers:
    """The answers to visual prompts: mask logits, how well they match (the mean mask logit of the marked pixels), and class
    embeddings."""

    mask_logits: Float[jax.Array, "B N h w"]
    scores: Float[jax.Array, "B N"]
    class_embedding: Float[jax.Array, "B N E"]


def answer_marks(prediction: SeemPrediction, means: Float[DeviceArray, "B N D"] | None = None) -> MarkAnswers:
    """Returns the answer to each visual prompt, by the best of its queries. Without queries of their own, as in demo, prompts
    are answered by the objects. means: the mean features of the prompts, by default those of the prediction."""
    means = prediction.marked_mean if means is None else means
    assert means is not None
    names = [name for name, *_ in prediction.groups]
    part = prediction.part(seem.MARK_QUERY if seem.MARK_QUERY in names else seem.OBJECT)
    prompts = means.shape[1]
    logits = mark_logits(part.mask_embedding, means, per_prompt=part.mask_embedding.shape[1] // prompts)
    masks, best = choose_masks(logits, part.mask_logits)
    return MarkAnswers(masks, logits.max(1), jnp.take_along_axis(part.class_embedding, best[..., None], axis=1))


def name_by_objects(answers: MarkAnswers, prediction: SeemPrediction) -> MarkAnswers:
    """Returns the answers with the class embedding of the object whose mask overlaps most (IoU), as the queries of visual
    prompts are not trained to name what they find."""
    objects = prediction.part(seem.OBJECT)
    masks, others = (logits > 0 for logits in (answers.mask_logits, objects.mask_logits))
    shared = jnp.einsum("bnhw,bqhw->bnq", masks.astype(jnp.float32), others.astype(jnp.float32), precision="highest")
    joined = masks.sum((2, 3))[:, :, None] + others.sum((2, 3))[:, None] - shared
    best = jnp.argmax(shared / jnp.maximum(joined, 1), axis=2)
    embedding = jnp.take_along_axis(objects.class_embedding, best[..., None], axis=1)
    named: MarkAnswers = answers.replace(class_embedding=embedding)  # type: ignore[attr-defined]
    return named


def simulate_rounds(
    decode: Callable[[SeemPrompts], SeemPrediction],
    marks: Marks,
    targets: Bool[DeviceArray, "B N H W"],
    choices: Choices,
    count: Int32[DeviceArray, ""] | int,
    size: tuple[int, int],
) -> tuple[Marks, Float[jax.Array, "B N h w"]]:
    """Returns the marks and the predicted masks after `count` rounds, in which a simulated user clicks at the largest error.

    decode: answers visual prompts alone. count: how often the user clicks; a number on the device, so that there is one
    program. size: (h, w) of the mask logits. Gradients stop here.
    """
    batch, prompts, height, width = targets.shape
    rounds = choices.query_index.shape[0] - 1
    room = rounds * prompts * CLICK_PIXELS
    marks = marks.replace(points=tuple(_with_room(points, room) for points in marks.points))  # type: ignore[attr-defined]
    first = marks.points[0].prompt.shape[1] - room
    assert marks.positive is not None
    present = marks.positive.any((2, 3))

    def play(number: jax.Array, state: tuple[Marks, jax.Array]) -> tuple[Marks, jax.Array]:
        marks, previous = state
        answers = answer_marks(decode(round_prompts(marks, choices, number, previous, number > 0)))
        previous = answers.mask_logits.astype(jnp.float32)
        resized = resize_bilinear(rearrange(previous, "b n h w -> b h w n"), (height, width))
        predicted = rearrange(resized, "b h w n -> (b n) h w") > 0
        rows = lambda masks: rearrange(masks, "b n h w -> (b n) h w")
        shown = rows(marks.positive), rows(marks.negative)
        clicks = choose_clicks(predicted, rows(targets), *shown)
        clicks = clicks.replace(wanted=clicks.wanted & present.reshape(-1))  # type: ignore[attr-defined]
        added = (rearrange(masks, "(b n) h w -> b n h w", b=batch) for masks in add_squares(clicks, *shown))
        by_image: Clicks = jax.tree.map(lambda field: field.reshape(batch, prompts), clicks)
        start = first + number * prompts * CLICK_PIXELS
        new = _click_points(by_image, marks)
        points = tuple(_write(points, new, start) for points in marks.points)
        return Marks(points, *added), previous

    nothing = jnp.zeros((batch, prompts, *size), jnp.float32)
    played: tuple[Marks, jax.Array] = jax.lax.fori_loop(0, count, play, (marks, nothing))
    return jax.lax.stop_gradient(played)


def _with_room(points: MarkedPoints, room: int) -> MarkedPoints:
    """Appends `room` points of padding."""
    pad = lambda array, value: jnp.pad(array, ((0, 0), (0, room), *((0, 0),) * (array.ndim - 2)), constant_values=value)
    return MarkedPoints(pad(points.points, 0.0), pad(points.prompt, -1), pad(points.positive, False))


def _click_points(clicks: Clicks, marks: Marks) -> MarkedPoints:
    """Returns the pixels of the clicks of all prompts that are not marked yet. clicks: [B, N]."""
    assert marks.positive is not None and marks.negative is not None
    height, width = marks.positive.shape[2:]
    offset = jnp.arange(CLICK_PIXELS)
    row, column = clicks.row[..., None] + offset // 3 - 1, clicks.column[..., None] + offset % 3 - 1  # [B, N, 9]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & clicks.wanted[..., None]
    batch, prompt = (np.arange(size).reshape(shape) for size, shape in zip(row.shape, ((-1, 1, 1), (-1, 1)), strict=False))
    at = lambda masks: masks.at[batch, prompt, row, column].get(mode="clip")
    inside &= ~jnp.where(clicks.positive[..., None], at(marks.positive), at(marks.negative))
    flat = lambda array: array.reshape(array.shape[0], -1, *array.shape[3:])
    return MarkedPoints(
        flat(jnp.stack([column / jnp.float32(width), row / jnp.float32(height)], axis=-1)),
        flat(jnp.where(inside, prompt, -1).astype(jnp.int32)),
        flat(jnp.broadcast_to(clicks.positive[..., None], row.shape)),
    )


def _write(points: MarkedPoints, new: MarkedPoints, start: Int32[DeviceArray, ""]) -> MarkedPoints:
    """Writes points at the positions from `start`."""
    write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
    written: MarkedPoints = jax.tree.map(write, points, new)
    return written
