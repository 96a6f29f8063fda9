"""The host-side preprocessing interface of a system: turns texts and pixels of an example into the arrays of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Example
from hyperseg_jax.text.tokenizer import Tokenizer

Batch = dict[str, Any]
"""Arrays by name, possibly nested. "bad" (bool) marks elements that replace unreadable records; all other keys are defined by
the system."""

Shape = Mapping[str, int]
"""Padded sizes and counts of a bucket, by name."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one part of a batch is encoded separately from the rest.

    function: f(parameters, arrays of the part, features) -> features of the part, a pytree. needs: the parts whose features
    the function may use, if the batch has them. without_memory: whether the features are only valid without memory of earlier
    frames. of_images: False for features that do not depend on an image, such as class lists; they stay cached for further
    batches.
    """

    function: Callable[[Any, Batch, Mapping[str, Any]], Any]
    needs: tuple[str, ...] = ()
    without_memory: bool = False
    of_images: bool = True


class Processor(Protocol):
    """Turns examples of one task into arrays of static shapes. Immutable, comparable and picklable."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None if the system has no text."""

    @property
    def frames(self) -> int:
        """Frames per element, with reference frames. Further frames of an example are dropped."""

    @property
    def prompts(self) -> int:
        """Prompts per element. Further prompts of an example are dropped."""

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element.

        rng: for random choices of the system, such as the order of class lists. fill: the fraction of the model input that the
        image fills (large-scale jitter). Raises UserError with the name of the example if it is not supported or does not fit.
        """

    def bucket(self, example: Example) -> Shape:
        """Returns the padded sizes and counts for this example in prediction and evaluation. Only few distinct ones are
        returned, so that few programs are compiled."""

    def for_bucket(self, shape: Shape) -> Processor:
        """Returns a processor with the sizes and counts of a bucket; all sizes that are not in it are kept."""

    def with_common_shape(self, others: Iterable[Any]) -> Processor:
        """Returns a processor of the same model that holds the elements of this and the other processors: with the maximum of
        each size."""

    def spec(self, batch_size: int) -> Batch:
        """Returns the shapes and dtypes of a batch (jax.ShapeDtypeStruct), for compilation without data."""

    def blank(self) -> Batch:
        """Returns the element that replaces an unreadable record. It contributes to no loss, gradient or divisor."""

    def geometry(self, height: int, width: int) -> Geometry:
        """Returns how an image of this size is placed in the model input."""

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the arrays of a NumPy batch that can be encoded separately, by the names of `System.encode`.

        Their features are cached and reused for batches with the same arrays. `predict` does not need the entries of the batch
        whose arrays all belong to such parts.
        """

    def padding(self, element: Batch) -> Mapping[str, tuple[int, int]]:
        """Returns (used, capacity) of an element by padded quantity: token "positions", "prompts", "targets", "pixels"."""


def common_shape(shapes: Iterable[Shape]) -> dict[str, int]:
    """Returns the shape that holds all of these: the maximum of each size and count."""
    common: dict[str, int] = {}
    for shape in shapes:
        common |= {name: max(size, common.get(name, 0)) for name, size in shape.items()}
    return common
