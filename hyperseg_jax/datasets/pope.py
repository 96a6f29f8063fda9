"""POPE: coco_pope_{random,popular,adversarial}.json, a json object a line: {question_id, image, text, label: yes or no}."""

from __future__ import annotations

import os
import pathlib

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.per_picture import PerPicture
from hyperseg_jax.datasets.problems import complain
from hyperseg_jax.structs import Prompt

LABELS = ("yes", "no")


class Pope(PerPicture):
    """Random access to the questions of one file, in its order; group is the kind of file (random, popular, adversarial)."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        prompts_per_example: int = 1,
        suffix: str = "",
    ):
        """image_root: COCO's val2014. suffix: put behind each question."""
        self._file = files.JsonLines(json_path)
        self._images = files.existing_folder(image_root)
        self.name, self._suffix = self._file.path.name, suffix
        self._kind = self._file.path.stem.rsplit("_", 1)[-1]
        self._arrange([self._field(n, "image") for n in range(len(self._file.content))], prompts_per_example)

    def _field(self, n: int, name: str) -> str:
        return files.field(self._file.content[n], name, f"{self._file.path}#{n}")

    def _picture(self, n: int) -> tuple[pathlib.Path, None]:
        return self._images / self._field(n, "image"), None

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        label = self._field(n, "label")
        if label not in LABELS:
            complain("bad record", f"{self._file.path}#{n}: field 'label' is {label!r} where yes or no belongs; correct it")
        text = self._field(n, "text") + self._suffix
        return Prompt(task="chat", text=text, answer=label, group=self._kind, key=str(self._field(n, "question_id")))
