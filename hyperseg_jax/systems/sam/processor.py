"""Converts an Example to the fixed-shape arrays of one SAM batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import check_count
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, fit_to_square, resize_and_pad
from hyperseg_jax.structs import Example
from hyperseg_jax.systems.pixels import GREY
from hyperseg_jax.systems.sam.marks import mark_arrays, region_marks
from hyperseg_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class SamProcessor:
    """Processes examples with one prompt of regions to static array sizes.

    image_size: side of the padded square. regions: regions of an element. marks: points and corners of a region.
    """

    COUNTS = ("regions", "marks")
    frames: ClassVar[int] = 1
    prompts: ClassVar[int] = 1

    tokenizer: Tokenizer | None
    image_size: int
    regions: int = 1
    marks: int = 2

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element.

        images uint8 [1, S, S, 3]; filled int32 [2], (height, width) of the unpadded part; places float32 [R, M, 2] and kinds
        int32 [R, M], see marks.mark_arrays; region_valid bool [R]; bad bool [], False.
        """
        with naming_example(example):
            regions = _regions_of(example)
            check_count("regions", len(regions), self.regions)
            height, width = example.frames.shape[1:3]
            geometry = fit_to_square(height, width, self.image_size, fill)
            return {
                "images": resize_and_pad(example.frames[0], geometry, GREY)[None],
                "filled": np.asarray(geometry.filled, np.int32),
                **mark_arrays(regions, geometry, (self.regions, self.marks)),
                "region_valid": np.arange(self.regions) < len(regions),
                "bad": np.asarray(False),
            }

    def bucket(self, example: Example) -> Shape:
        """Returns the number of regions and marks, each rounded up to a power of two."""
        with naming_example(example):
            regions = _regions_of(example)
            marks = max((len(region_marks(region, f"region {n + 1}")[1]) for n, region in enumerate(regions)), default=1)
        return {name: 1 << max(count - 1, 0).bit_length() for name, count in (("regions", len(regions)), ("marks", marks))}

    def for_bucket(self, shape: Shape) -> Self:
        return dataclasses.replace(self, **shape)  # type: ignore[arg-type]

    def with_common_shape(self, others: Iterable[Any]) -> Self:
        processors = [self, *others]
        return dataclasses.replace(self, **{name: max(getattr(p, name) for p in processors) for name in self.COUNTS})

    def spec(self, batch_size: int) -> Batch:
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "images": array(np.uint8, 1, self.image_size, self.image_size, 3),
            "filled": array(np.int32, 2),
            "places": array(np.float32, self.regions, self.marks, 2),
            "kinds": array(np.int32, self.regions, self.marks),
            "region_valid": array(bool, self.regions),
            "bad": array(bool),
        }

    def blank(self) -> Batch:
        element = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        return {**element, "bad": np.asarray(True)}

    def geometry(self, height: int, width: int) -> Geometry:
        return fit_to_square(height, width, self.image_size)

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the image."""
        return {"image": {name: batch[name] for name in ("images", "filled")}}

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        return {
            "targets": (int(element["region_valid"].sum()), self.regions),
            "pixels": (int(np.prod(element["filled"])), self.image_size**2),
        }


def _regions_of(example: Example) -> tuple[Any, ...]:
    """Returns the regions of the one prompt of an example. Raises UserError if its prompt has none."""
    (prompt, *others) = example.prompts
    if others or prompt.text or prompt.classes or not prompt.regions:
        raise UserError("SAM answers points, boxes and masks only; give one prompt with regions, without text and classes")
    if example.drawn_on is not None:
        raise UserError("SAM has no prompts that are drawn on another image; draw the regions on the image itself")
    return prompt.regions


def make_processor(config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]) -> SamProcessor:
    """Returns the processor of a task. sizes: array sizes; empty in prediction."""
    return SamProcessor(tokenizer, config.data.image_size, **sizes)
