"""GQA: {question id: {question, imageId, answer, fullAnswer, types: {structural}}} and images/{imageId}.jpg."""

from __future__ import annotations

import os
import pathlib

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.per_picture import PerPicture
from hyperseg_jax.structs import Prompt


class Gqa(PerPicture):
    """Random access to the questions of one file, in its order; group is the structural type (query, verify, ...)."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        prompts_per_example: int = 1,
        suffix: str = "",
    ):
        """json_path: such as testdev_balanced_questions.json. suffix: put behind each question."""
        self._file = files.Json(json_path, dict)
        self._images = files.existing_folder(image_root)
        self.name, self._suffix = self._file.path.name, suffix
        self._keys = list(self._file.content)
        self._arrange([self._row(n, "imageId") for n in range(len(self._keys))], prompts_per_example)

    def _row(self, n: int, name: str) -> str:
        key = self._keys[n]
        return files.field(self._file.content[key], name, f"{self._file.path} {key}")

    def _picture(self, n: int) -> tuple[pathlib.Path, None]:
        return self._images / f"{self._row(n, 'imageId')}.jpg", None

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        row = self._file.content[self._keys[n]]
        return Prompt(
            task="chat",
            text=self._row(n, "question") + self._suffix,
            answer=row.get("answer", ""),  # the test split has none
            group=row.get("types", {}).get("structural", ""),
            key=self._keys[n],
        )
