"""Converts an Example to the fixed-shape arrays of one IFSeg batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, cast

import jax
import ml_collections
import numpy as np
from jaxtyping import Int, Int16, UInt8

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import check_count
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.encoders.resnet import STRIDE
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.ofa import OfaEncoder
from hyperseg_jax.ops.fixed_point_resize import resize_linearly
from hyperseg_jax.ops.transforms import Geometry, SideRule, fit_to_square, resize_and_pad_map
from hyperseg_jax.structs import IGNORED, Example, Prompt
from hyperseg_jax.systems.ifseg.model import PADDING
from hyperseg_jax.systems.ifseg.texts import pad_ids, split_synonyms, text_ids
from hyperseg_jax.systems.ifseg.word_images import enlarge, random_grid, random_names
from hyperseg_jax.text.tokenizer import Tokenizer

STEPS = {"classes": 8, "class_length": 4, "length": 16}
"""Sizes are multiples of these in prediction."""


@dataclasses.dataclass(frozen=True)
class IfSegProcessor:
    """Processes examples with one class list to static array sizes. The arrays are described in inputs.

    image_size: side of the square of training, and of the target of an image of words. context: the longest text. sides: how
    images are resized in prediction. classes: names of all classes, with synonyms. class_length, length: tokens of a name, and
    of the text that lists all of them. caption_words: different tokens of the captions of an image; 0: its prompt is a class
    list. words: 1 if a training element is an image of words, 0 if it is that of the example. trained: 1 if elements have
    labels. height, width: the canvas; 0: the square of training.
    """

    COUNTS = ("classes", "class_length", "length", "caption_words", "words", "trained", "height", "width")
    frames: ClassVar[int] = 1
    prompts: ClassVar[int] = 1

    tokenizer: Tokenizer
    image_size: int
    context: int
    sides: SideRule
    classes: int = 0
    class_length: int = 0
    length: int = 0
    caption_words: int = 0
    words: int = 0
    trained: int = 0
    height: int = 0
    width: int = 0

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element. rng: draws images of words."""
        if self.caption_words:
            return self._caption_arrays(example, fill)
        labels: np.ndarray | None = None
        with naming_example(example):
            prompt = _class_list(example)
            names, owners = split_synonyms(prompt.classes)
            arrays = self._text_arrays(*self._encode(names), owners)
            if self.words:
                rng = rng or np.random.default_rng(0)
                cells = self.image_size // STRIDE
                grid = random_grid(rng, len(prompt.classes), cells)
                of_names = random_names(rng, grid, owners)
                arrays["cell_names"] = enlarge(of_names, cells)
                labels = enlarge(grid, self.image_size).astype(np.int16)
            else:
                placed, geometry = self._image_arrays(example, train=train, fill=fill)
                arrays |= placed
                if self.trained:
                    labels = place_labels(prompt, geometry)
        if labels is not None:
            arrays["labels"] = labels
        return {**arrays, "bad": np.asarray(False)}

    def _image_arrays(self, example: Example, *, train: bool, fill: float) -> tuple[dict[str, np.ndarray], Geometry]:
        if not len(example.frames):
            raise UserError("has no image; set words = 1 of its task to train on images of words")
        height, width = example.frames.shape[1:3]
        geometry = fit_to_square(height, width, self.image_size, fill) if train else self.geometry(height, width)
        image = place_image(example.frames[0], geometry)[None]
        return {"images": image, "filled": np.asarray(geometry.filled, np.int32)}, geometry

    def _caption_arrays(self, example: Example, fill: float) -> Batch:
        """Returns the arrays of a training image with captions."""
        with naming_example(example):
            texts = [text for prompt in example.prompts for captions in prompt.captions for text in captions]
            found = sorted({token for text in texts for token in self.tokenizer.encode(text)})
            if not found:
                raise UserError("has no captions; use a reader of captions, or set caption_words = 0 of its task")
            check_count("caption_words", len(found), self.caption_words)
            arrays, _ = self._image_arrays(example, train=True, fill=fill)
        return {**arrays, "caption_words": pad_ids([found], 1, self.caption_words)[0], "bad": np.asarray(False)}

    def _encode(self, names: list[str]) -> tuple[list[list[int]], list[int]]:
        """Returns the ids of each name, and of the text that lists them. Raises UserError if the text is too long."""
        text = text_ids(self.tokenizer, names)
        if len(text) > self.context:
            raise UserError(
                f"the text of its {len(names)} class names has {len(text)} tokens, and the model reads {self.context} "
                "(model.encoder.num_positions); give fewer or shorter names"
            )
        return [self.tokenizer.encode(name) for name in names], text

    def _text_arrays(self, rows: list[list[int]], text: list[int], owners: list[int]) -> dict[str, np.ndarray]:
        check_count("classes", len(rows), self.classes)
        check_count("class_length", max(map(len, rows)), self.class_length)
        check_count("length", len(text), self.length)
        of_name = np.full(self.classes, -1, np.int32)
        of_name[: len(owners)] = owners
        return {
            "text": pad_ids([text], 1, self.length)[0],
            "class_words": pad_ids(rows, self.classes, self.class_length),
            "class_of": of_name,
        }

    def bucket(self, example: Example) -> Shape:
        """Returns sizes that fit an example in prediction and evaluation, which have no labels."""
        with naming_example(example):
            names, _ = split_synonyms(_class_list(example).classes)
            rows, text = self._encode(names)
            used = {"classes": len(names), "class_length": max(map(len, rows)), "length": len(text)}
            height, width = self.sides.place(*example.frames.shape[1:3]).padded
        rounded = {name: -(-size // STEPS[name]) * STEPS[name] for name, size in used.items()}
        rounded["length"] = min(rounded["length"], self.context)
        return {**rounded, "caption_words": 0, "words": 0, "trained": 0, "height": height, "width": width}

    def for_bucket(self, shape: Shape) -> Self:
        return dataclasses.replace(self, **shape)  # type: ignore[arg-type]

    def with_common_shape(self, others: Iterable[Any]) -> Self:
        processors = [self, *others]
        if len({processor.words for processor in processors}) > 1:
            raise UserError("images and images of words cannot be in one batch; set data.batches = 'task'")
        if len({bool(processor.caption_words) for processor in processors}) > 1:
            raise UserError("class lists and captions cannot be in one batch; set data.batches = 'task'")
        return dataclasses.replace(self, **{name: max(getattr(p, name) for p in processors) for name in self.COUNTS})

    def spec(self, batch_size: int) -> Batch:
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        canvas = self.height or self.image_size, self.width or self.image_size
        images = {"images": array(np.uint8, 1, *canvas, 3), "filled": array(np.int32, 2)}
        if self.caption_words:
            return {**images, "caption_words": array(np.int32, self.caption_words), "bad": array(bool)}
        spec = {
            "text": array(np.int32, self.length),
            "class_words": array(np.int32, self.classes, self.class_length),
            "class_of": array(np.int32, self.classes),
            "bad": array(bool),
        }
        if self.words:
            spec["cell_names"] = array(np.int32, *(self.image_size // STRIDE,) * 2)
            canvas = self.image_size, self.image_size
        else:
            spec |= images
        if self.trained:
            spec["labels"] = array(np.int16, *canvas)
        return spec

    def blank(self) -> Batch:
        element = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        filled = {"text": PADDING, "class_words": PADDING, "caption_words": PADDING, "class_of": -1, "labels": IGNORED}
        element |= {name: np.full_like(element[name], value) for name, value in filled.items() if name in element}
        return {**element, "bad": np.asarray(True)}

    def geometry(self, height: int, width: int) -> Geometry:
        return self.sides.place(height, width, (self.height, self.width) if self.height and self.width else None)

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the image."""
        return {"image": {name: batch[name] for name in ("images", "filled")}} if "images" in batch else {}

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        rows = {"text": "positions", "caption_words": "words"}
        used = {rows[k]: (int((element[k] != PADDING).sum()), element[k].size) for k in rows if k in element}
        if "class_of" in element:
            used["classes"] = int((element["class_of"] >= 0).sum()), element["class_of"].size
        if "filled" in element:
            used["pixels"] = int(np.prod(element["filled"])), int(np.prod(element["images"].shape[1:3]))
        return used


def _class_list(example: Example) -> Prompt:
    """Returns the prompt of an example. Raises UserError unless it is one class list."""
    if len(example.prompts) != 1 or example.prompts[0].task != "panoptic":
        raise UserError("IFSeg answers one class list about an image; use a reader of class lists, or --classes")
    if not example.prompts[0].classes:
        raise UserError("its class list is empty; name at least one class")
    return example.prompts[0]


def place_image(image: UInt8[np.ndarray, "H W 3"], geometry: Geometry) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes an image as published, and pads it right and bottom."""
    canvas = np.zeros((*geometry.padded, 3), np.uint8)
    canvas[: geometry.filled[0], : geometry.filled[1]] = resize_linearly(image, *geometry.filled)
    return canvas


def place_labels(prompt: Prompt, geometry: Geometry) -> Int16[np.ndarray, "h w"]:
    """Returns the class of each pixel of the padded input; IGNORED for padding, ignored pixels, and those without a class."""
    return (resize_and_pad_map(label_map(prompt, geometry.original) - IGNORED, geometry) + IGNORED).astype(np.int16)


def label_map(prompt: Prompt, size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    """Returns the class of each pixel of an image of this (height, width), from the masks of a class list; IGNORED for pixels
    without a class, and those that the prompt ignores."""
    labels = np.full(size, IGNORED, np.int32)
    if prompt.masks is None:
        raise UserError("its class list has no masks; use a reader with ground truth")
    for mask, label in zip(prompt.masks[:, 0], prompt.labels, strict=True):
        labels[mask] = label
    if prompt.ignore is not None:
        labels[prompt.ignore[0]] = IGNORED
    return labels


def make_processor(config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]) -> IfSegProcessor:
    """Returns the processor of a task.

    sizes: array sizes; empty in prediction. tokenizer: may be None if only shapes are needed. Raises UserError if a side is not
    a multiple of the cells, or larger than the model knows.
    """
    side, resize = config.data.image_size, config.data.resize
    for name, value in (("data.image_size", side), ("data.resize.multiple", resize.multiple)):
        if value < STRIDE or value % STRIDE:
            raise UserError(f"{name} = {value}: give a multiple of {STRIDE}, the side of a cell")
    if not 0 < resize.short_side <= resize.long_side:
        raise UserError(
            f"data.resize has short_side = {resize.short_side}, long_side = {resize.long_side}; give a long side of at least "
            "the short one"
        )
    sides = SideRule(resize.short_side, resize.long_side, resize.multiple)
    encoder = config.model.encoder
    known = encoder.get("side", OfaEncoder.side)
    if sizes.get("words") and side > known * STRIDE:
        raise UserError(
            f"data.image_size = {side}: images of words would have sides of {side // STRIDE} cells, and the model knows "
            f"positions of {known} (model.encoder.side); give at most {known * STRIDE}"
        )
    context = encoder.get("num_positions", OfaEncoder.num_positions)
    if (length := sizes.get("length", 0)) > context:
        raise UserError(f"length = {length}, but the model reads {context} tokens (model.encoder.num_positions); give less")
    return IfSegProcessor(cast(Tokenizer, tokenizer), side, context, sides, **{"trained": int(bool(sizes)), **sizes})
