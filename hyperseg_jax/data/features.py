"""Example -> the fixed-shape arrays of one element of a batch (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, fit, resize_and_pad, resize_and_pad_mask, stretch, stretch_mask
from hyperseg_jax.structs import IGNORED, Example, Layout, Prompt
from hyperseg_jax.text.layout import TokenCounts, expand, expanded_length, pack
from hyperseg_jax.text.prompts import PromptTokens, normalize, tokenize
from hyperseg_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The static sizes of one task's batches; what an example has less of is padded and masked.

    image_size: side of the padded square for the mask branch. clip_size: side of the stretched square for the language
    branch. frames, prompts, length, targets, classes ("background" among them), regions: counts an element.
    image_tokens, fine_grained_tokens, queries: the counts that the model puts into the stream. template: prompt template.
    """

    image_size: int
    clip_size: int
    image_tokens: int
    fine_grained_tokens: int
    queries: int
    frames: int = 1
    prompts: int = 1
    length: int = 96
    targets: int = 1
    classes: int = 0
    regions: int = 0
    template: str = "v0"


def to_arrays(
    example: Example,
    sizes: Sizes,
    tokenizer: Tokenizer,
    *,
    train: bool,
    rng: np.random.Generator | None = None,
    fill: float = 1.0,
    tokens: Sequence[PromptTokens] | None = None,
    geometry: Geometry | None = None,
) -> dict[str, Any]:
    """The arrays of one element.

    images uint8 [T, S, S, 3]; clip_images uint8 [T, s, s, 3]; filled int32 [2] (height, width of the unpadded part);
    layout: int32 or bool [L] each, K prompts in one sequence; masks bool [K, N, T, S, S]; valid bool [K, N];
    labels int32 [K, N]; class_valid bool [K, C]; regions bool [K, R, s, s]; region_valid bool [K, R];
    uses_{expression,classes,regions} bool [K]; frame_valid bool [T], False where a frame is padding; bad bool, True in a blank.
    rng: shuffles class lists; None keeps them in order. fill: the part of the square that the long edge takes. tokens: what
    tokenize_prompts gave for these prompts, and geometry: how the frames lie in the square, where the caller knows them.
    """
    if geometry is None:
        height, width = example.frames.shape[1:3]
        geometry = fit(height, width, sizes.image_size, fill)
    frames = example.frames[: sizes.frames]
    prompts = example.prompts[: sizes.prompts]
    if rng is not None:
        prompts = tuple(shuffle_classes(prompt, rng) for prompt in prompts)
    if tokens is None:
        tokens = tokenize_prompts(prompts, example.name, sizes, tokenizer, train=train)
    rows = [_prompt_arrays(prompt, example.name, sizes, geometry, train) for prompt in prompts]
    padding = {name: np.zeros_like(value) for name, value in rows[0].items()}
    rows += [padding] * (sizes.prompts - len(rows))
    missing = [(0, sizes.frames - len(frames))] + [(0, 0)] * 3
    return {
        "images": np.pad(np.stack([resize_and_pad(frame, geometry) for frame in frames]), missing),
        "clip_images": np.pad(np.stack([stretch(frame, sizes.clip_size) for frame in frames]), missing),
        "filled": np.asarray(geometry.filled, np.int32),
        "layout": vars(_layout(tokens, example.name, sizes)),
        **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
        "frame_valid": np.arange(sizes.frames) < len(frames),
        "bad": np.asarray(False),
    }


def blank(sizes: Sizes) -> dict[str, Any]:
    """An element in the place of one that cannot be read: nothing is asked, shown or written, so no loss sees it."""
    made = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), spec(sizes, 1))
    made["layout"]["labels"][:] = IGNORED
    return {**made, "bad": np.asarray(True)}


def spec(sizes: Sizes, batch: int) -> dict[str, Any]:
    """Shapes and types of a batch of what to_arrays gives (jax.ShapeDtypeStruct), for a step that is compiled before there is
    any data."""
    frames, prompts, classes, regions = sizes.frames, sizes.prompts, sizes.classes, sizes.regions
    picture, small, length = (sizes.image_size,) * 2, (sizes.clip_size,) * 2, (sizes.length,)
    array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch, *shape), dtype)
    layout = {field.name: array(bool if field.name == "mask" else np.int32, *length) for field in dataclasses.fields(Layout)}
    return {
        "images": array(np.uint8, frames, *picture, 3),
        "clip_images": array(np.uint8, frames, *small, 3),
        "filled": array(np.int32, 2),
        "layout": layout,
        "masks": array(bool, prompts, sizes.targets, frames, *picture),
        "valid": array(bool, prompts, sizes.targets),
        "labels": array(np.int32, prompts, sizes.targets),
        "class_valid": array(bool, prompts, classes),
        "regions": array(bool, prompts, regions, *small),
        "region_valid": array(bool, prompts, regions),
        **{f"uses_{kind}": array(bool, prompts) for kind in ("expression", "classes", "regions")},
        "frame_valid": array(bool, frames),
        "bad": array(bool),
    }


def largest(many: Iterable[Sizes]) -> Sizes:
    """The sizes that hold an element of any of these, of one model."""
    many = list(many)
    counts = ("frames", "prompts", "length", "targets", "classes", "regions")
    return dataclasses.replace(many[0], **{name: max(getattr(sizes, name) for sizes in many) for name in counts})


def tokenize_prompts(
    prompts: Sequence[Prompt], name: str, sizes: Sizes, tokenizer: Tokenizer, *, train: bool = False
) -> list[PromptTokens]:
    """The normalized prompts as ids with markers. Raises UserError naming the example where one lacks what its task needs."""
    try:
        return [tokenize(normalize(prompt), tokenizer, template=sizes.template, train=train) for prompt in prompts]
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def length_needed(tokens: PromptTokens, sizes: Sizes) -> int:
    """Positions that one prompt takes in the token stream."""
    return expanded_length(tokens, _counts(sizes))


def _counts(sizes: Sizes) -> TokenCounts:
    return TokenCounts(sizes.image_tokens, sizes.fine_grained_tokens, sizes.queries)


def _layout(tokens: Sequence[PromptTokens], name: str, sizes: Sizes) -> Layout:
    try:
        return pack([expand(one, _counts(sizes), sizes.length) for one in tokens], sizes.length)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _prompt_arrays(prompt: Prompt, name: str, sizes: Sizes, geometry: Geometry, train: bool) -> dict[str, np.ndarray]:
    wanted, given = (() if part is None else part for part in (prompt.masks, prompt.regions))
    found, regions = len(wanted), len(given)
    classes = len(prompt.classes) + 1 if prompt.task == "panoptic" else 0
    for what, have, room in (
        ("targets", found, sizes.targets),
        ("classes", classes, sizes.classes),
        ("regions", regions, sizes.regions),
    ):
        if have > room:
            raise UserError(f"{name}: {have} {what}, the task has room for {room}; raise {what} in its config")
    size = sizes.image_size
    masks = np.zeros((sizes.targets, sizes.frames, size, size), bool)
    for n in range(found):
        for t in range(min(sizes.frames, len(wanted[n]))):
            masks[n, t] = resize_and_pad_mask(wanted[n][t], geometry)
    drawn = np.zeros((sizes.regions, sizes.clip_size, sizes.clip_size), bool)
    for r in range(regions):
        drawn[r] = stretch_mask(given[r], sizes.clip_size)
    labels = np.zeros(sizes.targets, np.int32)
    labels[: len(prompt.labels)] = prompt.labels
    valid, region_valid = np.arange(sizes.targets) < found, np.arange(sizes.regions) < regions
    # Too small for any pixel at this size: neither there to be found nor absent, so it is not asked for.
    lost = [n for n in range(found) if train and not masks[n].any() and wanted[n][: sizes.frames].any()]
    valid[lost] = False
    if prompt.task == "region":
        region_valid[labels[lost]] = False
    return {
        "masks": masks,
        "valid": valid,
        "labels": labels,
        "class_valid": np.arange(sizes.classes) < classes,
        "regions": drawn,
        "region_valid": region_valid,
        "uses_expression": np.asarray(prompt.task in ("referring", "reasoning", "video") and not lost),
        "uses_classes": np.asarray(prompt.task == "panoptic"),
        "uses_regions": np.asarray(prompt.task == "region"),
    }


def shuffle_classes(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """The same prompt with its class list in another order; a prompt without one as it is."""
    if not prompt.classes:
        return prompt
    order = rng.permutation(len(prompt.classes))
    place = np.argsort(order)
    things = tuple(prompt.things[k] for k in order) if prompt.things else ()
    labels, crowds = (tuple(int(place[label]) for label in given) for given in (prompt.labels, prompt.crowd_labels))
    return dataclasses.replace(
        prompt, classes=tuple(prompt.classes[k] for k in order), things=things, labels=labels, crowd_labels=crowds
    )
