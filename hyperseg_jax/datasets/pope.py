"""POPE: coco_pope_{random,popular,adversarial}.json, one json object per line: {question_id, image, text, label: yes or no}."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.questions import Questions
from hyperseg_jax.structs import Prompt

LABELS = ("yes", "no")


class Pope(Questions):
    """Random access to the questions of one file in file order. group: the sampling of the file (random, popular, adversarial).

    image_root: COCO's val2014.
    """

    image_field = "image"

    def _open_questions(self, json_path: str | os.PathLike) -> int:
        self._file = files.JsonLines(json_path)
        self.name = self._file.path.name
        self._kind = self._file.path.stem.rsplit("_", 1)[-1]
        records = [record for _, record in self._file.content]
        self._ids = IdIndex(records, "question_id", self._location, strict=False).duplicates_only()
        return len(self._file)

    def _question_record(self, n: int) -> dict[str, Any]:
        return self._file[n]

    def _location(self, n: int) -> str:
        return self._file.where(n)

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, None]:
        return files.join_inside(self._images, self._text_field(n, "image"), self._location(n)), None

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        label = self._text_field(n, "label")
        if label not in LABELS:
            report_problem("bad record", f"{self._location(n)}: field 'label' is {label!r}, expected yes or no; correct it")
        self._ids.check(self._question_record(n), self._location(n))
        text = self._sentence_field(n, "text") + self._suffix
        return Prompt(
            task="chat",
            text=text,
            answer=label,
            group=self._kind,
            key=str(fields.id_field(self._question_record(n), "question_id", self._location(n))),
        )
