"""What readers of prompts about images share: one prompt an example, or several of one image together."""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Hashable

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt


class PerImage(abc.ABC):
    """Random access to the prompts of a benchmark. A reader says what prompt n is and which image it is about."""

    name: str
    """What examples are called by, with the number of their first prompt."""
    needs_image_size = False
    """Whether prompts lean on the size of an image that the annotations do not promise."""

    def _group_prompts(self, count: int, image_of: Callable[[int], Hashable], prompts_per_example: int) -> None:
        """Prompts 0 to count - 1 become examples of up to prompts_per_example about one image.

        picture_of: takes n, tells images apart. A prompt for which it raises UserError is an example of its own, which raises
        again when it is read: one bad record hides no others.
        """
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        by_image: dict[Hashable, list[int]] = {}
        for n in range(count):
            image: Hashable = ("prompt", n)
            if prompts_per_example > 1:
                with contextlib.suppress(UserError):
                    image = image_of(n)
            by_image.setdefault(image, []).append(n)
        self._groups = [chunk for group in by_image.values() for chunk in files.chunks(group, prompts_per_example)]

    @abc.abstractmethod
    def _image(self, n: int) -> tuple[pathlib.Path, tuple[int, int] | None]:
        """The image of prompt n, and the (height, width) that the annotations promise."""

    @abc.abstractmethod
    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        """Prompt n about an image of this (height, width)."""

    def _pixels(self, n: int) -> np.ndarray:
        path, size = self._image(n)
        try:
            return files.read_image(path, size)
        except Problem as problem:
            if self.needs_image_size:
                raise
            report_problem(problem.kind, str(problem))  # a check goes on to the prompts
            return np.zeros((1, 1, 3), np.uint8)

    def __len__(self) -> int:
        return len(self._groups)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        group = self._groups[index]
        pixels = self._pixels(group[0])
        height, width = pixels.shape[:2]
        prompts = tuple(self._prompt(n, (height, width)) for n in group)
        return Example(f"{self.name}#{group[0]}", pixels[None], prompts)
