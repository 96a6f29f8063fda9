"""GQA: {question id: {question, imageId, answer, fullAnswer, types: {structural}}} and images/{imageId}.jpg."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.questions import Questions
from hyperseg_jax.structs import Prompt


class Gqa(Questions):
    """Random access to the questions of one file in file order. group: the structural type (query, verify, ...).

    json_path: such as testdev_balanced_questions.json.
    """

    image_field = "imageId"

    def _open_questions(self, json_path: str | os.PathLike) -> int:
        self._file = files.Json(json_path, dict)
        self.name = self._file.path.name
        self._keys = list(self._file.content)
        return len(self._keys)

    def _question_record(self, n: int) -> dict[str, Any]:
        return self._file.content[self._keys[n]]

    def _location(self, n: int) -> str:
        return f"{self._file.path} {self._keys[n]}"

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, None]:
        return files.join_inside(self._images, f"{self._text_field(n, 'imageId')}.jpg", self._location(n)), None

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        question, where = self._question_record(n), self._location(n)
        kinds = fields.dict_field(question, "types", where) if fields.is_given(question, "types") else {}
        return Prompt(
            task="chat",
            text=self._sentence_field(n, "question") + self._suffix,
            answer=fields.text_field(question, "answer", where, ""),  # missing in the test split
            group=fields.optional_name_field(kinds, "structural", f"{where} types"),
            key=self._keys[n],
        )
