"""Base class of readers of prompts about images, with one or several prompts of an image per example."""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Hashable, Mapping

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt


class PerImage(abc.ABC):
    """Random access to the prompts of a benchmark. Subclasses implement `_build_prompt` and `_image_path_and_size`."""

    name: str
    """Examples are named by this name and the number of their first prompt."""
    needs_image_size = False
    """Whether prompts depend on the image size and the annotations do not declare it."""

    def _group_prompts(
        self,
        count: int,
        image_of: Callable[[int], Hashable],
        prompts_per_example: int,
        errors: Mapping[int, UserError] | None = None,
    ) -> None:
        """Groups prompts 0 to count - 1 into examples with up to prompts_per_example prompts of one image.

        image_of: returns an image key for prompt n. If it raises UserError, the prompt becomes a separate example, which raises
        again when it is read, so that one bad record does not hide others. errors: of damaged prompts, which become separate
        examples that raise them.
        """
        self._errors = dict(errors or {})
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        by_image: dict[Hashable, list[int]] = {}
        for n in range(count):
            image: Hashable = ("prompt", n)
            if prompts_per_example > 1 and n not in self._errors:
                with contextlib.suppress(UserError):
                    image = image_of(n)
            by_image.setdefault(image, []).append(n)
        self._groups = [chunk for group in by_image.values() for chunk in files.split_evenly(group, prompts_per_example)]

    @abc.abstractmethod
    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int] | None]:
        """Returns the image path of prompt n and the (height, width) declared by the annotations, if any."""

    @abc.abstractmethod
    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        """Returns prompt n. size: (height, width) of its image."""

    def _read_pixels(self, n: int) -> np.ndarray:
        """Reads the image of prompt n. During a check, an unreadable image is reported, and a single pixel is returned if the
        prompts do not need its size."""
        path, size = self._image_path_and_size(n)
        try:
            return files.read_image(path, size)
        except Problem as problem:
            if self.needs_image_size:
                raise
            report_problem(problem.kind, str(problem))  # a check continues with the prompts
            return np.zeros((1, 1, 3), np.uint8)

    def __len__(self) -> int:
        return len(self._groups)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        group = self._groups[index]
        if error := self._errors.get(group[0]):
            raise error.with_traceback(None)
        pixels = self._read_pixels(group[0])
        height, width = pixels.shape[:2]
        prompts = tuple(self._build_prompt(n, (height, width)) for n in group)
        return Example(f"{self.name}#{group[0]}", pixels[None], prompts)
