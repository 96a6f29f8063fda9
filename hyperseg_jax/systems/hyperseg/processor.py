"""Converts an Example to the fixed-shape arrays of one HyperSeg batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import check_count
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import (
    Geometry,
    fit_to_square,
    resize_and_pad,
    stretch_mask_to_square,
    stretch_to_square,
)
from hyperseg_jax.structs import Example, Layout, Prompt, Region, Source
from hyperseg_jax.systems.hyperseg import encoding
from hyperseg_jax.systems.hyperseg.entities import RELEASED, Entities
from hyperseg_jax.systems.hyperseg.prompts import before_names, normalize_prompt, tokenize_prompt
from hyperseg_jax.systems.pixels import GREY
from hyperseg_jax.systems.psalm.markers import TokenCounts, expand_to_runs
from hyperseg_jax.systems.psalm.sizes import SizedProcessor, check_text_only
from hyperseg_jax.systems.psalm.templates import SEG
from hyperseg_jax.text.layout import choose_bucket, expand_runs, expanded_length, pack_layouts, packed_length
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits

NAME_STEP = 8
"""The arrays of class names have a multiple of this number of tokens, so that few programs are compiled."""


@dataclasses.dataclass(frozen=True)
class HyperSegProcessor(SizedProcessor):
    """Processes the examples of one task to static array sizes; smaller examples are padded and masked.

    image_size: side of the padded square for the mask branch. clip_size: side of the stretched square for the language
    branch. frames, prompts, length, targets, classes (including "background"), regions: sizes per element. planes: number of
    segment maps, 1 if targets of a prompt never overlap; 0 means one per target. drawn_on: 1 if regions were drawn on another
    image than the queried one, else 0. masks: 0 for a task of text only; its training batches then have no pixels for the mask
    branch, which is neither compiled nor run.
    written: number of tokens of the names that the model writes in prediction; 0: it writes none, and the layouts have the
    whole answer. name_size: maximum number of tokens of a class name with a separator, if names are written.
    image_tokens, fine_grained_tokens, queries: positions that the model inserts into the token stream. template: prompt
    template. buckets: allowed lengths in prediction and evaluation. entities: how answers to class lists name the entities.
    """

    COUNTS = ("frames", "prompts", "length", "targets", "classes", "regions", "drawn_on", "masks", "written", "name_size")

    tokenizer: Tokenizer
    image_size: int
    clip_size: int
    image_tokens: int
    fine_grained_tokens: int
    queries: int
    frames: int = 1
    prompts: int = 1
    length: int = 96
    targets: int = 1
    planes: int = 0
    classes: int = 0
    regions: int = 0
    drawn_on: int = 0
    masks: int = 1
    written: int = 0
    name_size: int = 0
    template: str = "v0"
    buckets: tuple[int, ...] = ()
    entities: Entities = RELEASED

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element.

        images uint8 [T, S, S, 3]; clip_images uint8 [T, s, s, 3]; filled int32 [2] (height, width of the unpadded part);
        layout: int32 or bool [L] each, K prompts in one sequence; segments uint8, uint16 for more than 255 targets,
        [K, P, T, S, S], n + 1 where target n is; planes int32 [K, N], the plane of each target; valid bool [K, N];
        labels int32 [K, N]; class_valid bool [K, C]; regions bool [K, R, s, s]; region_valid bool [K, R];
        uses_{expression,classes,regions} bool [K]; frame_valid bool [T], False for padding frames; bad bool, True in a blank
        element; if drawn_on is 1, region_images uint8 [1, s, s, 3]; if names are written, names: the arrays of
        llms.name_list.NameList for each prompt, [K, ...].
        rng: shuffles class lists; None keeps their order. fill: long edge of the image over the side of the square.
        """
        if example.drawn_on is not None and not self.drawn_on:
            raise UserError(
                f"{example.name}: its regions are drawn on another image, but the task has no array for it; set drawn_on = 1"
            )
        height, width = example.frames.shape[1:3]
        geometry = fit_to_square(height, width, self.image_size, fill)
        frames, prompts = example.frames[: self.frames], example.prompts[: self.prompts]
        if rng is not None:
            prompts = tuple(shuffle_classes(prompt, rng) for prompt in prompts)
        with naming_example(example):
            layout = pack_layouts(self._make_layouts(prompts, train), self.length)
            if not self.masks and np.isin(layout.source, (Source.QUERY, Source.RESAMPLED)).any():
                raise UserError(
                    f"the task has masks = 0, but its prompts of task {prompts[0].task!r} need masks; remove the field"
                )
            rows = [
                self._make_prompt_arrays(prompt, geometry, _image_of_regions(example).shape[:2], train) for prompt in prompts
            ]
        padding = jax.tree.map(np.zeros_like, rows[0])
        rows += [padding] * (self.prompts - len(rows))
        return {
            "images": _stack_padded((self._resize_for_masks(frame, geometry) for frame in frames), self.frames),
            "clip_images": _stack_padded((stretch_to_square(frame, self.clip_size) for frame in frames), self.frames),
            "filled": np.asarray(geometry.filled, np.int32),
            "layout": vars(layout),
            **jax.tree.map(lambda *values: np.stack(values), *rows),
            "frame_valid": np.arange(self.frames) < len(frames),
            "bad": np.asarray(False),
            **({"region_images": stretch_to_square(_image_of_regions(example), self.clip_size)[None]} if self.drawn_on else {}),
        }

    def bucket(self, example: Example) -> Shape:
        """Returns sizes that fit an example in prediction and evaluation, which have no targets.

        If the configured sizes are too small, the length is one of `buckets` and the number of regions a power of two. A prompt
        whose names are to be written is shorter than in training, so its length is always one of `buckets`.
        """
        prompts = example.prompts[: self.prompts]
        class_counts = [len(prompt.classes) + 1 for prompt in prompts if prompt.classes]
        writes = self.entities.writes and any(prompt.classes and prompt.entities is None for prompt in prompts)
        written = self.entities.tokens if writes else 0
        with naming_example(example):
            length = packed_length(dataclasses.replace(self, written=written)._make_layouts(prompts, train=False))
            items = [item for prompt in prompts for item in self._items(prompt)] if writes else []
            limits.check_limit("tokens", length, "its prompt", "positions")
        region_counts = [len(prompt.regions) for prompt in prompts if prompt.regions]
        return {
            "frames": len(example.frames),
            "length": self.length if length <= self.length and not writes else choose_bucket(length, self.buckets),
            "targets": 0,
            "classes": max(self.classes, *class_counts, 0),
            "regions": max(self.regions, *(1 << (count - 1).bit_length() for count in region_counts), 0),
            "drawn_on": int(example.drawn_on is not None or (len(example.frames) > 1 and bool(region_counts))),
            "masks": 1,
            "written": written,
            "name_size": -(-max(map(len, items), default=0) // NAME_STEP) * NAME_STEP,
        }

    def spec(self, batch_size: int) -> Batch:
        frames, prompts, classes, regions = self.frames, self.prompts, self.classes, self.regions
        square, small, length = (self.mask_side,) * 2, (self.clip_size,) * 2, (self.length,)
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        numbers = {name: array(np.int32, prompts) for name in ("separator", "end", "limit", "vocabulary")}
        names = {"items": array(np.int32, prompts, classes, self.name_size), **numbers}
        kinds = {field.name: bool if field.name == "mask" else np.int32 for field in dataclasses.fields(Layout)}
        return {
            "images": array(np.uint8, frames, *square, 3),
            "clip_images": array(np.uint8, frames, *small, 3),
            "filled": array(np.int32, 2),
            "layout": {name: array(kind, *length) for name, kind in kinds.items()},
            "segments": array(self.target_arrays.map_type, prompts, *self.target_arrays.map_shape),
            "planes": array(np.int32, prompts, self.targets),
            "valid": array(bool, prompts, self.targets),
            "labels": array(np.int32, prompts, self.targets),
            "class_valid": array(bool, prompts, classes),
            "regions": array(bool, prompts, regions, *small),
            "region_valid": array(bool, prompts, regions),
            **{f"uses_{kind}": array(bool, prompts) for kind in ("expression", "classes", "regions")},
            "frame_valid": array(bool, frames),
            "bad": array(bool),
            **({"region_images": array(np.uint8, 1, *small, 3)} if self.drawn_on else {}),
            **({"names": names} if self.written else {}),
        }

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        return encoding.split_parts(batch)

    def _resize_for_masks(self, frame: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Returns the pixels of a frame for the mask branch, none if the task has no masks."""
        return resize_and_pad(frame, geometry, GREY) if self.masks else np.zeros((0, 0, 3), np.uint8)

    @property
    def mask_frames(self) -> int:
        return self.frames

    @property
    def _counts(self) -> TokenCounts:
        """The number of positions of an image, its fine-grained tokens and the mask queries."""
        return TokenCounts(self.image_tokens, self.fine_grained_tokens, self.queries)

    def _make_layouts(self, prompts: Sequence[Prompt], train: bool) -> list[Layout]:
        """Returns the layout of each prompt, without padding and not yet packed."""
        layouts = []
        for prompt in prompts:
            if self.written and prompt.entities is not None:
                raise UserError("some prompts of the batch give the entities and others do not; give them in all, or in none")
            tokens = tokenize_prompt(
                normalize_prompt(prompt), self.tokenizer, template=self.template, train=train, entities=self.entities
            )
            if self.written:
                tokens = before_names(tokens)
            stream = expand_to_runs(tokens, self._counts)
            layouts.append(expand_runs(stream, expanded_length(stream)))
        return layouts

    def _make_prompt_arrays(self, prompt: Prompt, geometry: Geometry, drawn_on: tuple[int, ...], train: bool) -> Batch:
        """Returns the arrays of one prompt. drawn_on: (height, width) of the image that its regions were drawn on."""
        num_regions, num_classes = len(prompt.regions), len(prompt.classes) + 1 if prompt.task == "panoptic" else 0
        check_count("classes", num_classes, self.classes)
        check_count("regions", num_regions, self.regions)
        targets, vanished = self.target_arrays.make(prompt, geometry, train)
        region_masks = np.zeros((self.regions, self.clip_size, self.clip_size), bool)
        for r, region in enumerate(prompt.regions):
            region_masks[r] = stretch_mask_to_square(_draw_region(region, r, drawn_on), self.clip_size)
        region_valid = np.arange(self.regions) < num_regions
        if prompt.task == "region":
            region_valid[targets["labels"][vanished]] = False
        class_valid = np.arange(self.classes) < num_classes
        if num_classes and not self.entities.lists_classes and not self.written:
            answer = self.entities.answer(normalize_prompt(prompt), self.tokenizer)
            class_valid = np.isin(np.arange(1, self.classes + 1), [name.label for name in answer])
            targets["valid"] &= class_valid[targets["labels"]]
        return {
            **targets,
            "class_valid": class_valid,
            "regions": region_masks,
            "region_valid": region_valid,
            "uses_expression": np.asarray(prompt.task in ("referring", "reasoning", "video") and not vanished),
            "uses_classes": np.asarray(prompt.task == "panoptic"),
            "uses_regions": np.asarray(prompt.task == "region"),
            **({"names": self._make_names(prompt)} if self.written else {}),
        }

    def _items(self, prompt: Prompt) -> list[tuple[int, ...]]:
        """Returns the token ids of the names that the answer to a class list may contain, see Entities.choices."""
        return self.entities.choices(normalize_prompt(prompt).classes, self.tokenizer) if prompt.classes else []

    def _make_names(self, prompt: Prompt) -> dict[str, np.ndarray]:
        """Returns the arrays of the NameList of a prompt. The answers to other prompts than class lists have no names."""
        items: np.ndarray = np.full((self.classes, self.name_size), -1, np.int32)
        listed = self._items(prompt)
        for row, ids in zip((*range(len(listed) - 1), -1), listed, strict=False):
            items[row, : len(ids)] = ids
        numbers = {
            "separator": len(self.tokenizer.encode(self.entities.separator)),
            "end": self.tokenizer.id_of(SEG),
            "limit": self.entities.limit if listed else 0,
            "vocabulary": self.tokenizer.vocab_size,
        }
        return {"items": items, **{name: np.asarray(number, np.int32) for name, number in numbers.items()}}


def _stack_padded(images: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Stacks one or more images to [size, ...], padded with zeros."""
    first, *rest = images
    stacked = np.zeros((size, *first.shape), first.dtype)
    for k, image in enumerate((first, *rest)):
        stacked[k] = image
    return stacked


def make_processor(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]
) -> HyperSegProcessor:
    """Returns the processor of a task.

    sizes: array sizes that differ from one image and one expression; empty in prediction. tokenizer: may be None if only
    shapes are needed.
    """
    m = config.model
    sizes = check_text_only(sizes, "frames", 1)
    return HyperSegProcessor(
        cast(Tokenizer, tokenizer),
        config.data.image_size,
        m.clip_encoder.image_size,
        (m.clip_encoder.image_size // m.clip_encoder.patch_size) ** 2,
        m.perceiver.num_queries,
        m.num_queries,
        template=config.data.template,
        buckets=tuple(config.data.buckets),
        entities=Entities.from_config(config),
        **(sizes or {"length": 0}),  # in prediction, the smallest bucket
    )


def _image_of_regions(example: Example) -> np.ndarray:
    """Returns the image that the regions of an example were drawn on, uint8 [H, W, 3]."""
    return example.frames[0] if example.drawn_on is None else example.drawn_on


def _draw_region(region: Region, index: int, size: tuple[int, ...]) -> np.ndarray:
    """Draws a region as a bool mask [H, W]. index: number of the region in its prompt, from 0, for the message of
    UserErrors."""
    try:
        return draw_region(region, size)
    except UserError as error:
        raise UserError(f"region {index + 1}: {error}") from error


def shuffle_classes(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Returns the prompt with its class list shuffled; prompts without classes are unchanged."""
    if not prompt.classes:
        return prompt
    order = rng.permutation(len(prompt.classes))
    new_label = np.argsort(order)
    things = tuple(prompt.things[k] for k in order) if prompt.things else ()
    labels, crowds = (
        tuple(int(new_label[label]) for label in old_labels) for old_labels in (prompt.labels, prompt.crowd_labels)
    )
    return dataclasses.replace(
        prompt, classes=tuple(prompt.classes[k] for k in order), things=things, labels=labels, crowd_labels=crowds
    )
