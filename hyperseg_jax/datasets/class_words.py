"""A class list without images, for systems that are trained on words alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.datasets.class_names import CLASS_LISTS
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt


class ClassWords:
    """One example without pixels, whose prompt is a class list. What a system draws for it differs in each step of a run."""

    def __init__(self, classes: Sequence[str] = (), *, benchmark: str = ""):
        """classes: names of all classes. benchmark: instead of classes, a key of class_names.CLASS_LISTS."""
        if bool(classes) == bool(benchmark):
            raise UserError("a class list has either `classes` or `benchmark`; give one of them")
        if benchmark and benchmark not in CLASS_LISTS:
            raise UserError(f"benchmark={benchmark!r} is unknown; choose one of {', '.join(CLASS_LISTS)}")
        names = CLASS_LISTS[benchmark] if benchmark else tuple(classes)
        self._prompt = Prompt("panoptic", classes=names, things=(False,) * len(names))

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names."""
        return self._prompt.classes

    def __len__(self) -> int:
        return 1

    @guard_record
    def __getitem__(self, index: int) -> Example:
        if index:
            raise IndexError(index)
        return Example("class list", np.zeros((0, 1, 1, 3), np.uint8), (self._prompt,))
