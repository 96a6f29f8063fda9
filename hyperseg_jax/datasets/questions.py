"""Base class of readers with one question file and one image folder (GQA, POPE)."""

from __future__ import annotations

import abc
import os
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.per_image import PerImage


class Questions(PerImage):
    """Random access to the questions of one file in file order. Subclasses implement reading the file."""

    image_field: str
    """The field of a question that names its image."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        prompts_per_example: int = 1,
        suffix: str = "",
    ):
        """prompts_per_example: maximum number of questions about one image per example. suffix: appended to each question."""
        count = self._open_questions(json_path)
        self._images = files.existing_folder(image_root)
        self._suffix = suffix
        self._group_prompts(count, lambda n: self._text_field(n, self.image_field), prompts_per_example)

    @abc.abstractmethod
    def _open_questions(self, json_path: str | os.PathLike) -> int:
        """Opens the file, sets `name`, and returns the number of questions."""

    @abc.abstractmethod
    def _question_record(self, n: int) -> dict[str, Any]:
        """Returns question n, from 0."""

    @abc.abstractmethod
    def _location(self, n: int) -> str:
        """Returns the location of question n for messages."""

    def _sentence_field(self, n: int, name: str) -> str:
        return fields.sentence_field(self._question_record(n), name, self._location(n))

    def _text_field(self, n: int, name: str) -> str:
        return fields.text_field(self._question_record(n), name, self._location(n))
