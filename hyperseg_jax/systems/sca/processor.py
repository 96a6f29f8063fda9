"""Converts an Example to the fixed-shape arrays of one SCA batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, cast

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, resize_and_pad_map
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems.sam.processor import SamProcessor
from hyperseg_jax.systems.sca.images import Regions, augment
from hyperseg_jax.systems.sca.model import CAPTION
from hyperseg_jax.systems.sca.texts import START, pack_captions
from hyperseg_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ScaProcessor:
    """Processes examples with one prompt of regions to static array sizes: a caption prompt, or one that asks for masks.

    places: SAM's processor of the regions. length: tokens of a caption with its end; 0 in prediction. masks: 1 if the regions
    of training have masks. task: number of the task (model.RECOGNITION or CAPTION). jitter: (minimum, maximum) scale of the
    large-scale jitter of training; None without. start: ids that a caption begins with.
    """

    COUNTS = ("length", "task", "masks")
    frames: ClassVar[int] = 1
    prompts: ClassVar[int] = 1

    tokenizer: Tokenizer
    places: SamProcessor
    length: int = 0
    masks: int = 0
    task: int = CAPTION
    jitter: tuple[float, float] | None = None
    start: tuple[int, ...] = ()

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element: those of SAM's processor, and task int32 []; with length also caption_ids int32
        [R, T] and caption_mask bool [R, T], False at padding; with masks also region_masks bool [R, S, S].

        In training, rng shuffles the regions, chooses one text of each, and jitters the image; boxes without an area and
        regions beyond the capacity are dropped.
        """
        texts: tuple[str, ...] = ()
        masks: np.ndarray | None = None
        with naming_example(example):
            if train:
                example, texts, masks = self._augment(example, rng or np.random.default_rng(0))
                if self.masks and masks is None:
                    raise UserError("its regions have no masks; read them with masks=True, or set masks = 0 of the task")
            elif self.length and len(example.prompts) == 1:
                texts = tuple(captions[0] for captions in example.prompts[0].captions)[: self.places.regions]
        asked = dataclasses.replace(example, prompts=tuple(_without_captions(prompt) for prompt in example.prompts))
        empty = train and not texts
        arrays = self.places.blank() if empty else self.places(asked, train=train, fill=fill)
        arrays |= {"task": np.asarray(self.task, np.int32), "bad": np.asarray(False)}
        if self.masks:
            arrays["region_masks"] = self._mask_array(masks)
        return arrays | (self._caption_arrays(texts) if self.length else {})

    def _mask_array(self, masks: np.ndarray | None) -> np.ndarray:
        """Returns the masks of training regions in the square; empty masks in evaluation and for padding."""
        side = self.places.image_size
        placed = np.zeros((self.places.regions, side, side), bool)
        if masks is not None and len(masks):
            geometry = self.geometry(masks.shape[1], masks.shape[2])
            placed[: len(masks)] = resize_and_pad_map(masks.astype(np.uint8), geometry)
        return placed

    def _augment(self, example: Example, rng: np.random.Generator) -> tuple[Example, tuple[str, ...], np.ndarray | None]:
        """Returns the example of one training image with the regions that are kept, their texts and their masks."""
        (prompt, *others) = example.prompts
        if others or prompt.task != "caption":
            raise UserError("SCA is trained on one prompt of captions for an image; use a reader of region captions")
        kept: Regions
        image, kept = augment(
            example.frames[0],
            prompt,
            rng,
            side=self.places.image_size,
            scale=self.jitter,
            most=self.places.regions,
        )
        regions = tuple(Region.from_box(*box) for box in kept.boxes)
        changed = dataclasses.replace(example, frames=image[None], prompts=(Prompt("caption", regions=regions),))
        return changed, kept.texts, kept.masks

    def _caption_arrays(self, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
        end = self.tokenizer.eos_id
        captions = [(*self.start, *self.tokenizer.encode(text)) for text in texts]
        ids, mask = pack_captions(captions, self.length, end=end, padding=end)
        rows = (0, self.places.regions - len(texts)), (0, 0)
        return {
            "caption_ids": np.pad(ids.reshape(-1, self.length), rows, constant_values=end),
            "caption_mask": np.pad(mask.reshape(-1, self.length), rows),
        }

    def bucket(self, example: Example) -> Shape:
        return {**self.places.bucket(example), "length": 0, "masks": 0}

    def for_bucket(self, shape: Shape) -> Self:
        own = {name: size for name, size in shape.items() if name in self.COUNTS}
        theirs = {name: size for name, size in shape.items() if name not in self.COUNTS}
        return dataclasses.replace(self, places=self.places.for_bucket(theirs), **own)  # type: ignore[arg-type]

    def with_common_shape(self, others: Iterable[Any]) -> Self:
        processors = [self, *others]
        if len({(processor.task, processor.masks) for processor in processors}) > 1:
            raise UserError("tasks whose fields task or masks differ cannot be in one batch; set data.batches = 'task'")
        places = self.places.with_common_shape(other.places for other in processors[1:])
        return dataclasses.replace(self, places=places, length=max(processor.length for processor in processors))

    def spec(self, batch_size: int) -> Batch:
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        spec = {**self.places.spec(batch_size), "task": array(np.int32)}
        if self.masks:
            spec["region_masks"] = array(bool, self.places.regions, self.places.image_size, self.places.image_size)
        if self.length:
            size = self.places.regions, self.length
            spec |= {"caption_ids": array(np.int32, *size), "caption_mask": array(bool, *size)}
        return spec

    def blank(self) -> Batch:
        element = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        return {**element, "bad": np.asarray(True)}

    def geometry(self, height: int, width: int) -> Geometry:
        return self.places.geometry(height, width)

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the image."""
        return self.places.parts(batch)

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        used = {**self.places.padding(element)}
        if self.length:
            lengths = element["caption_mask"].sum(-1)
            used |= {"positions": (int(lengths.max()), self.length), "tokens": (int(lengths.sum()), lengths.size * self.length)}
        return used


def _without_captions(prompt: Prompt) -> Prompt:
    """Returns the prompt as SAM's processor accepts it."""
    return dataclasses.replace(prompt, captions=())


def make_processor(config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]) -> ScaProcessor:
    """Returns the processor of a task.

    sizes: array sizes; empty in prediction. tokenizer: may be None if only shapes are needed.
    """
    own = {name: size for name, size in sizes.items() if name in ScaProcessor.COUNTS}
    places = SamProcessor(
        None, config.data.image_size, **{name: size for name, size in sizes.items() if name not in ScaProcessor.COUNTS}
    )
    jitter = tuple(config.data.jitter) or None
    start = START.get(config.model.llm.kind, "") if own.get("length") else ""
    return ScaProcessor(
        cast(Tokenizer, tokenizer),
        places,
        **own,
        jitter=cast("tuple[float, float] | None", jitter),
        start=(tokenizer.id_of(start),) if start and tokenizer is not None else (),
    )
