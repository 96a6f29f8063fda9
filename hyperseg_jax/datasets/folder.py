"""Your own pictures and sentences: a folder with captions.jsonl, a line a sentence:

    {"picture": "pictures/0001.jpg", "text": "the red mug", "mask": "masks/0001_mug.png"}

mask: a picture whose pixels above 0 are meant, a list of them (their union), or null where the sentence fits nothing.
answer: an explanation, optional. group: a tag for grouped scores, optional. split: optional.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.labels import read_labels
from hyperseg_jax.datasets.per_picture import PerPicture
from hyperseg_jax.datasets.problems import complain
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt

TASKS = ("referring", "reasoning")


class Folder(PerPicture):
    """Random access to the lines of captions.jsonl, in its order."""

    measures = True

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        split: str = "",
        task: str = "referring",
        prompts_per_example: int = 1,
    ):
        """Paths in captions.jsonl are relative to folder. split: lines with this "split" only, and malformed lines, of which
        nobody knows the split. task: "referring", or "reasoning", which uses answers."""
        if task not in TASKS:
            raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
        self._root, self._task = files.existing_folder(folder), task
        self._file = files.JsonLines(self._root / "captions.jsonl")
        self.name = self._root.name
        self._splits = [self._split(n) for n in range(len(self._file))]
        if (split or None) not in (None, *self._splits) or not self._splits:
            raise UserError(f"{self._file.path}: no line {f'with split {split!r}' if split else 'in it'}; write some")
        self._records = [n for n, own in enumerate(self._splits) if not split or own in (split, None)]
        self._arrange(len(self._records), self._picture_name, prompts_per_example)

    def _split(self, record: int) -> str | None:
        """Of a line, "" where it names none, None where it is malformed."""
        try:
            return str(self._file[record].get("split", ""))
        except UserError:
            return None

    def split_of(self, index: int) -> str:
        """The split that the first line of an example names; "" where it names none."""
        return self._splits[self._records[self._groups[index][0]]] or ""

    def _picture_name(self, n: int) -> str:
        record = self._records[n]
        name = files.field(self._file[record], "picture", self._file.where(record))
        if not isinstance(name, str):
            raise UserError(f"{self._file.where(record)}: field 'picture' is {name!r} where a path belongs; correct it")
        return name

    def _picture(self, n: int) -> tuple[pathlib.Path, None]:
        return self._root / self._picture_name(n), None

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        record = self._records[n]
        row, where = self._file[record], self._file.where(record)
        text = files.field(row, "text", where)
        if not isinstance(text, str) or not text.strip():
            complain("bad record", f"{where}: field 'text' is empty; say what the mask shows")
            text = "?"
        given = files.field(row, "mask", where)
        paths = [given] if isinstance(given, str) else given or []
        target = np.zeros(size, bool)
        for path in paths:
            labels = read_labels(self._root / path, size)
            if labels is None:
                continue
            if not (labels > 0).any():
                complain("bad mask", f"{self._root / path}: has no pixel above 0; write null in {where} where nothing fits")
            target |= labels > 0
        return Prompt(
            task=self._task,
            text=text.strip(),
            answer=row.get("answer", ""),
            masks=target[None, None] if paths else np.zeros((0, 1, *size), bool),
            group=row.get("group", ""),
            key=str(record),
        )
