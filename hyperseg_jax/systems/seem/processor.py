"""Converts an Example to the fixed-shape arrays of one SEEM batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, cast

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import TargetArrays, check_count
from hyperseg_jax.datasets import random_shapes
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, SideRule, fit_to_square, resize_and_pad
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems.pixels import GREY
from hyperseg_jax.systems.seem import marks
from hyperseg_jax.systems.seem.derived_prompts import derive_prompts
from hyperseg_jax.systems.seem.texts import pad_ids, padded_length, text_ids
from hyperseg_jax.text.class_templates import BACKGROUND, SETS, clean_class_name
from hyperseg_jax.text.tokenizer import Tokenizer

PHRASES = ("referring", "reasoning", "video")
"""Tasks whose text is a phrase."""
STRIDE = 32
"""The sides of the model's input are multiples of this many pixels."""
STEPS = (16, 64, 256, 512)
"""Capacities of marked pixels in prediction."""


@dataclasses.dataclass(frozen=True)
class SeemProcessor:
    """Processes the examples of one task to static array sizes; smaller examples are padded and masked.

    An example may have one class list (panoptic), several phrases (referring) and one prompt with regions; all are answered in
    one pass. In training, an example with a class list gets random ones of its phrases, or class names as phrases, and regions,
    if the task has room for them.

    image_size: side of the padded square of training. context: the longest text in tokens. templates: a key of
    class_templates.SETS. short_side, long_side, multiple, bicubic: in prediction, images are resized by the SideRule of these
    sides, bilinearly as in detectron2 or, with bicubic = 1, as in torchvision; short_side = 0: to the square of training.
    height, width: the canvas; 0: of each image. drawn_height, drawn_width: the canvas of the image that regions were drawn on.
    prompts: prompts per element. classes: classes with the background; 0 without class lists. class_length, length: tokens of a
    class and of a phrase. targets: segments of a class list. planes: segment maps of each kind of prompt; 0: one for each of
    its targets. phrases, regions: phrases and regions per element. points, excluded: capacities of marked and of excluded
    pixels. trained: 1 if the elements have targets, and one sentence for each class. drawn_on: 1 if the regions were drawn on
    another image.
    """

    COUNTS = (
        "prompts",
        "classes",
        "class_length",
        "length",
        "targets",
        "phrases",
        "regions",
        "points",
        "excluded",
        "trained",
        "drawn_on",
        "height",
        "width",
        "drawn_height",
        "drawn_width",
    )

    tokenizer: Tokenizer
    image_size: int
    context: int
    templates: str = "all"
    prompts: int = 1
    classes: int = 0
    class_length: int = 0
    targets: int = 0
    planes: int = 0
    phrases: int = 0
    length: int = 0
    regions: int = 0
    points: int = 512
    excluded: int = 0
    trained: int = 0
    drawn_on: int = 0
    height: int = 0
    width: int = 0
    drawn_height: int = 0
    drawn_width: int = 0
    short_side: int = 0
    long_side: int = 0
    multiple: int = 32
    bicubic: int = 0

    @property
    def frames(self) -> int:
        return 1

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element.

        images uint8 [1, H, W, 3]; filled int32 [2], (height, width) of the unpadded part; class_ids int32 [C, T, L],
        class_valid bool [C], class_list int32 [8], the SHA-256 of its names; phrase_ids int32 [N, L], phrase_present bool [N],
        is_sentence bool []; marked_points, marked_prompt, marked_positive: see marks.mark_arrays; region_present bool [R]; bad
        bool [], False.
        Targets of each kind ("", "phrase_", "region_"): segments, planes, valid, labels, see TargetArrays. In training with
        regions also drawn uint8 [R, S, S / 8], the packed pixels that are marked. With drawn_on also example_images and
        example_filled, the image that the regions were drawn on.

        rng: draws the sentence of each class name, the shape of each visual prompt, and its pixels.
        """
        height, width = example.frames.shape[1:3]
        geometry = fit_to_square(height, width, self.image_size, fill) if train else self.geometry(height, width)
        images, of_regions = {"": (example.frames[0], geometry)}, geometry
        if self.drawn_on:
            drawn_on = example.frames[0] if example.drawn_on is None else example.drawn_on
            of_regions = self._place(drawn_on.shape[0], drawn_on.shape[1], (self.drawn_height, self.drawn_width))
            images["example_"] = drawn_on, of_regions
        prompts = example.prompts[: self.prompts]
        with naming_example(example):
            lists, phrases, regions = _sort_prompts(prompts)
            named = bool(train and lists and not regions and not phrases)  # class names take the place of sentences
            if train and lists and not regions:
                rng = rng or np.random.default_rng(0)
                derived = derive_prompts(lists[0], phrases, self.phrases, self.regions, self.templates, rng)
                _, phrases, regions = _sort_prompts(derived)
            arrays = self._class_arrays(lists[0] if lists else None, geometry, train, rng)
            arrays |= self._phrase_arrays(phrases, geometry, train)
            arrays["is_sentence"] = np.asarray(not named)
            arrays |= self._region_arrays(regions[0] if regions else None, geometry, of_regions, train, rng)
        for prefix, (image, placed) in images.items():
            arrays[f"{prefix}images"] = resize_and_pad(image, placed, GREY, bicubic=bool(self.bicubic and not train))[None]
            arrays[f"{prefix}filled"] = np.asarray(placed.filled, np.int32)
        return {**arrays, "bad": np.asarray(False)}

    def bucket(self, example: Example) -> Shape:
        """Returns sizes that fit an example in prediction and evaluation, which have no targets."""
        with naming_example(example):
            lists, phrases, regions = _sort_prompts(example.prompts[: self.prompts])
            geometry = drawn_on = self._place(*example.frames.shape[1:3])
            shape = {"drawn_on": int(example.drawn_on is not None)}
            if example.drawn_on is not None:
                drawn_on = self._place(*example.drawn_on.shape[:2])
                shape |= {"drawn_height": drawn_on.padded[0], "drawn_width": drawn_on.padded[1]}
            shape |= {"height": geometry.padded[0], "width": geometry.padded[1]}
            shape |= {"trained": 0, "classes": 0, "class_length": 0, "phrases": 0, "length": 0, "regions": 0, "excluded": 0}
            if lists:
                texts = self._class_texts(lists[0].classes, None)
                shape["classes"], shape["class_length"] = len(texts), padded_length([*itertools.chain(*texts)], self.context)
            if phrases:
                shape["phrases"] = _power_of_two(len(phrases))
                shape["length"] = padded_length(self._phrase_texts(phrases), self.context)
            if regions:
                (prompt,) = regions
                shape["regions"] = _power_of_two(len(prompt.regions))
                positive, negative = _draw(prompt, drawn_on)
                capacity = lambda masks: next((step for step in STEPS if step >= masks.sum()), STEPS[-1])
                shape["points"] = capacity(positive)
                shape["excluded"] = capacity(negative) if negative.any() else 0
        return shape

    def for_bucket(self, shape: Shape) -> Self:
        return dataclasses.replace(self, **shape)  # type: ignore[arg-type]

    def with_common_shape(self, others: Iterable[Any]) -> Self:
        processors = [self, *others]
        largest = {name: max(getattr(processor, name) for processor in processors) for name in self.COUNTS}
        planes = max(processor.target_arrays("").num_planes for processor in processors)
        return dataclasses.replace(self, **largest, planes=planes)

    def spec(self, batch_size: int) -> Batch:
        canvas = self.height or self.image_size, self.width or self.image_size
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        pixels = self.points + self.excluded if self.regions else 0
        spec = {
            "images": array(np.uint8, 1, *canvas, 3),
            "filled": array(np.int32, 2),
            "class_ids": array(np.int32, self.classes, self._sentences(), self.class_length),
            "class_valid": array(bool, self.classes),
            "class_list": array(np.int32, 8),
            "phrase_ids": array(np.int32, self.phrases, self.length),
            "phrase_present": array(bool, self.phrases),
            "is_sentence": array(bool),
            "marked_points": array(np.float32, marks.DRAWS, pixels, 2),
            "marked_prompt": array(np.int32, marks.DRAWS, pixels),
            "marked_positive": array(bool, marks.DRAWS, pixels),
            "region_present": array(bool, self.regions),
            "bad": array(bool),
        }
        for prefix in ("", "phrase_", "region_"):
            arrays = self.target_arrays(prefix)
            spec[f"{prefix}segments"] = array(arrays.map_type, *arrays.map_shape)
            spec[f"{prefix}planes"] = spec[f"{prefix}labels"] = array(np.int32, arrays.targets)
            spec[f"{prefix}valid"] = array(bool, arrays.targets)
        if self.drawn_on:
            drawn_on = self.drawn_height or self.image_size, self.drawn_width or self.image_size
            spec |= {"example_images": array(np.uint8, 1, *drawn_on, 3), "example_filled": spec["filled"]}
        if self.regions and self.trained:
            spec["drawn"] = array(np.uint8, self.regions, self.image_size, self.image_size // 8)
        return spec

    def blank(self) -> Batch:
        element = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        return {**element, "marked_prompt": np.full_like(element["marked_prompt"], -1), "bad": np.asarray(True)}

    def geometry(self, height: int, width: int) -> Geometry:
        return self._place(height, width, (self.height, self.width))

    def _place(self, height: int, width: int, canvas: tuple[int, int] = (0, 0)) -> Geometry:
        """Returns the placement of an image in prediction. canvas: zeros for that of the image itself."""
        if not self.short_side:
            return fit_to_square(height, width, self.image_size)
        rule = SideRule(self.short_side, self.long_side, self.multiple, bool(self.bicubic))
        return rule.place(height, width, canvas if all(canvas) else None)

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the image, the regions that are drawn on another image, and the class list."""
        parts = {"image": {name: batch[name] for name in ("images", "filled")}}
        if self.drawn_on:
            marked = ("marked_points", "marked_prompt", "marked_positive", "region_present")
            parts["example"] = {name: batch[name] for name in ("example_images", "example_filled", *marked)}
        if batch["class_ids"].shape[1]:
            parts["classes"] = {name: batch[name] for name in ("class_ids", "class_list")}
        return parts

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        prefixes = [prefix for prefix in ("", "phrase_", "region_") if element[f"{prefix}valid"].size]
        used = sum(int(element[f"{prefix}valid"].sum()) for prefix in prefixes)
        prompts = (
            int(element["class_valid"].any()) + int(element["phrase_present"].sum()) + int(element["region_present"].any())
        )
        return {
            "prompts": (prompts, bool(self.classes) + self.phrases + bool(self.regions)),
            "targets": (used, sum(element[f"{prefix}valid"].size for prefix in prefixes)),
            "pixels": (int(np.prod(element["filled"])), int(np.prod(element["images"].shape[1:3]))),
        }

    def target_arrays(self, prefix: str) -> TargetArrays:
        """The arrays of the targets of a kind of prompts."""
        counts = {"": self.targets if self.classes else 0, "phrase_": self.phrases, "region_": self.regions}
        count = counts[prefix] if self.trained else 0
        return TargetArrays(count, self.planes, 1, self.image_size)

    def _sentences(self) -> int:
        return 1 if self.trained else len(SETS[self.templates])

    def _class_texts(self, names: Sequence[str], rng: np.random.Generator | None) -> list[list[list[int]]]:
        """Returns the sentences of each class and of the background, as ids; with rng, a random one of each."""
        if rng is None:
            return _all_sentences(self.tokenizer, tuple(names), self.templates, self.context)
        templates = SETS[self.templates]
        draw = lambda: (templates[int(rng.integers(len(templates)))],)
        return [_fill_in(self.tokenizer, name, draw(), self.context) for name in (*names, BACKGROUND)]

    def _class_arrays(
        self, prompt: Prompt | None, geometry: Geometry, train: bool, rng: np.random.Generator | None
    ) -> dict[str, np.ndarray]:
        names = () if prompt is None else prompt.classes
        rng = (rng or np.random.default_rng(0)) if self.trained else None
        texts = [] if prompt is None else self._class_texts(names, rng)
        check_count("classes", len(texts), self.classes)
        check_count("class_length", max((len(row) for of_class in texts for row in of_class), default=0), self.class_length)
        ids = np.zeros((self.classes, self._sentences(), self.class_length), np.int32)
        for k, rows in enumerate(texts):
            ids[k] = pad_ids(rows, ids.shape[1], self.class_length, self.tokenizer.eos_id)
        targets, _ = self.target_arrays("").make(prompt or Prompt("panoptic"), geometry, train)
        return {
            "class_ids": ids,
            "class_valid": np.arange(self.classes) < len(texts),
            "class_list": np.frombuffer(hashlib.sha256(json.dumps(names).encode()).digest(), np.int32),
            **targets,
        }

    def _phrase_texts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [text_ids(self.tokenizer, prompt.text, self.context) for prompt in prompts]

    def _phrase_arrays(self, prompts: Sequence[Prompt], geometry: Geometry, train: bool) -> dict[str, np.ndarray]:
        check_count("phrases", len(prompts), self.phrases)
        texts = self._phrase_texts(prompts)
        check_count("length", max(map(len, texts), default=0), self.length, "tokens of a phrase")
        arrays = self.target_arrays("phrase_")
        masks = [prompt.masks[:1, :1] for prompt in prompts if prompt.masks is not None and len(prompt.masks)]
        of_mask = [n for n, prompt in enumerate(prompts) if prompt.masks is not None and len(prompt.masks)]
        joined = Prompt("referring", masks=np.concatenate(masks) if masks and arrays.targets else None)
        made, _ = arrays.make(joined, geometry, train)
        targets = {name: made[name] for name in ("segments", "planes", "valid", "labels")}
        same = [texts.index(text) for text in texts]
        present = np.zeros(self.phrases, bool)
        present[: len(same)] = [k == n for n, k in enumerate(same)] if arrays.targets else True
        if arrays.targets:  # a phrase without an object has no target; the others move to their phrase
            targets = _move_targets(targets, of_mask)
            targets["labels"][: len(same)] = same
        return {
            "phrase_ids": pad_ids(texts, self.phrases, self.length, self.tokenizer.eos_id),
            "phrase_present": present,
            **{f"phrase_{name}": value for name, value in targets.items()},
        }

    def _region_arrays(
        self, prompt: Prompt | None, geometry: Geometry, drawn_on: Geometry, train: bool, rng: np.random.Generator | None
    ) -> dict[str, np.ndarray]:
        """geometry, drawn_on: the placements of the image, and of the one that the regions are drawn on."""
        count = 0 if prompt is None else len(prompt.regions)
        check_count("regions", count, self.regions)
        arrays = self.target_arrays("region_")
        made, _ = arrays.make(prompt or Prompt("region"), geometry, train)
        targets = _move_targets(made, () if prompt is None else prompt.labels)
        positive, negative = (np.zeros((self.regions, *drawn_on.padded), bool) for _ in range(2))
        if prompt is not None and train:
            for n in np.flatnonzero(targets["valid"]):
                mask = targets["segments"][targets["planes"][n], 0] == n + 1
                positive[n] = random_shapes.draw_random_shape(mask, rng or np.random.default_rng(0))
                targets["valid"][n] = positive[n].any()
        elif prompt is not None:
            positive[:count], negative[:count] = _draw(prompt, drawn_on)
        capacity = (self.points, self.excluded) if self.regions else (0, 0)
        result = marks.mark_arrays(positive, negative, capacity, rng)
        result |= {"region_present": np.arange(self.regions) < count}
        if arrays.targets:
            result["drawn"] = np.packbits(positive, axis=-1)
        return result | {f"region_{name}": value for name, value in targets.items()}


@functools.lru_cache(maxsize=4)
def _all_sentences(tokenizer: Tokenizer, names: tuple[str, ...], templates: str, context: int) -> list[list[list[int]]]:
    """Returns all sentences of each class and of the background. Cached, as lists have ten thousand, and each image and each
    round asks for them."""
    return [_fill_in(tokenizer, name, SETS[templates], context) for name in (*names, BACKGROUND)]


def _fill_in(tokenizer: Tokenizer, name: str, templates: Sequence[str], context: int) -> list[list[int]]:
    """Returns the ids of sentences about a class."""
    cleaned = clean_class_name(name)
    return [text_ids(tokenizer, template.replace("{}", cleaned), context) for template in templates]


def _power_of_two(count: int) -> int:
    """Returns the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()


def _sort_prompts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Returns the prompts with class lists, with phrases and with regions; a prompt with regions may also have a text, and
    both may have classes that name what is found. Raises UserError for other tasks, or several class lists or prompts with
    regions."""
    lists = [prompt for prompt in prompts if prompt.task == "panoptic" or prompt.classes]
    regions = [prompt for prompt in prompts if prompt.task == "region"]
    phrases = [prompt for prompt in prompts if prompt.task in PHRASES or (prompt.task == "region" and prompt.text)]
    for prompt in prompts:
        if prompt.task not in ("panoptic", "region", *PHRASES):
            raise UserError(f"SEEM has no answers of task {prompt.task!r}; use panoptic, region, {', '.join(PHRASES)}")
    for what, of_kind in (("class lists", lists), ("prompts with regions", regions)):
        if len(of_kind) > 1:
            raise UserError(f"{len(of_kind)} {what} about one image; give one, and prompts of other kinds")
    return lists, phrases, regions


def _draw(prompt: Prompt, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels that each region marks and excludes. geometry: the placement of the image that they are drawn on."""
    if len(prompt.regions) > STEPS[-1]:
        raise UserError(f"{len(prompt.regions)} regions in one prompt; give at most {STEPS[-1]}, so that each has a pixel")
    return marks.draw_marks(prompt.regions, geometry.original, geometry)


def _move_targets(targets: Mapping[str, np.ndarray], slots: Sequence[int]) -> dict[str, np.ndarray]:
    """Moves targets 0, 1, ... to other slots."""
    moved = {name: np.zeros_like(value) for name, value in targets.items()}
    for old, new in enumerate(slots if len(targets["valid"]) else ()):
        plane = targets["planes"][old]
        moved["segments"][plane][targets["segments"][plane] == old + 1] = new + 1
        moved["planes"][new], moved["valid"][new] = plane, targets["valid"][old]
    return moved


def make_processor(config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]) -> SeemProcessor:
    """Returns the processor of a task.

    sizes: array sizes; empty in prediction. They may replace fields of data.resize, how images are resized in prediction.
    tokenizer: may be None if only shapes are needed. Raises UserError if the sides do not fit each other or the model.
    """
    context = config.model.text_encoder.context
    processor = SeemProcessor(
        cast(Tokenizer, tokenizer),
        config.data.image_size,
        context,
        config.data.class_templates,
        trained=int(bool(sizes)),
        **{**config.data.get("resize", {}), **sizes},
    )
    short, long, multiple = processor.short_side, processor.long_side, processor.multiple
    given, side = f"short_side = {short}, long_side = {long}, multiple = {multiple}", config.data.image_size
    if short and (long < short or multiple % STRIDE):
        raise UserError(f"{given}: give a long side of at least the short one, and a multiple of {STRIDE}")
    canvases = SideRule(short, long, multiple).canvases() if short and config.model.mask_encoder.kind == "sam_vit" else ()
    if set(canvases) - {(side, side)}:
        why = f"SAM's encoder has positions for {side} x {side} pixels only"
        raise UserError(f"{given}: {why}; give sides up to {side}, and multiple = {side}")
    return processor
