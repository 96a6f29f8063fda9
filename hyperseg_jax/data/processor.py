"""What a system does with an example on the host: it turns its words and pixels into the arrays of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Example
from hyperseg_jax.text.tokenizer import Tokenizer

Batch = dict[str, Any]
"""Arrays by name, nested or not. "bad", bool, says whether an element stands for a record that cannot be read; all else is the
system's own."""

Shape = Mapping[str, int]
"""The padded sizes and counts of a bucket, by name."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one part of a batch is encoded, apart from the rest.

    function: f(parameters, the part's arrays, features) -> its features, a pytree. needs: the parts whose features it may use,
    of those that the batch has. first: whether the features serve only where there is no memory.
    """

    function: Callable[[Any, Batch, Mapping[str, Any]], Any]
    needs: tuple[str, ...] = ()
    first: bool = False


class Processor(Protocol):
    """Examples of one task of a config -> arrays of static shapes. A value: it is compared, pickled and never changed."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def frames(self) -> int:
        """Frames of an element; further ones of an example are left out."""

    @property
    def prompts(self) -> int:
        """Prompts of an element; further ones of an example are left out."""

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """The arrays of one element. rng: for random choices of the system's own, such as the order of class lists. fill: the
        part of the model's input that the image takes (large-scale jitter). UserError naming the example where it cannot be
        asked, or does not fit."""

    def bucket(self, example: Example) -> Shape:
        """The sizes and counts that hold this example in prediction and evaluation; few distinct values."""

    def for_bucket(self, shape: Shape) -> Processor:
        """The same with these sizes and counts; others stay."""

    def widest(self, others: Iterable[Any]) -> Processor:
        """One whose elements hold those of this and of each of the others, of one model."""

    def spec(self, batch_size: int) -> Batch:
        """Shapes and types of a batch (jax.ShapeDtypeStruct), for compiling without data."""

    def blank(self) -> Batch:
        """An element in the place of a record that cannot be read: no loss, gradient or divisor sees it."""

    def geometry(self, height: int, width: int) -> Geometry:
        """How an image of this size lies in the model's input."""

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """What of a batch of NumPy arrays can be encoded apart, and kept for the next batch that has the same: the arrays by
        the names of `System.encode`. Arrays that a part has whole, under the same name, need not be read by `predict`."""

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        """(used, room) of an element, by what is padded: "positions" of the token sequence, "prompts", "targets", "pixels"."""


def common_shape(shapes: Iterable[Shape]) -> dict[str, int]:
    """The largest of each size and count."""
    common: dict[str, int] = {}
    for shape in shapes:
        common |= {name: max(size, common.get(name, 0)) for name, size in shape.items()}
    return common
