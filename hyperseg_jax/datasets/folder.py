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
        """Paths in captions.jsonl are relative to folder. split: lines with this "split" only. task: "referring", or
        "reasoning", which uses answers."""
        if task not in TASKS:
            raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
        self._root, self._task = files.existing_folder(folder), task
        self._file = files.JsonLines(self._root / "captions.jsonl")
        self.name = self._root.name
        lines = [n for n, row in enumerate(self._file.content) if not split or row.get("split") == split]
        if not lines:
            raise UserError(f"{self._file.path}: no line {f'with split {split!r}' if split else 'in it'}; write some")
        self._lines = lines
        self._arrange([files.field(self._file.content[k], "picture", self._where(k)) for k in lines], prompts_per_example)

    def _where(self, line: int) -> str:
        return f"{self._file.path}#{line}"

    def _picture(self, n: int) -> tuple[pathlib.Path, None]:
        return self._root / self._file.content[self._lines[n]]["picture"], None

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        row, where = self._file.content[self._lines[n]], self._where(self._lines[n])
        text = files.field(row, "text", where)
        if not isinstance(text, str) or not text.strip():
            complain("bad record", f"{where}: field 'text' is empty; say what the mask shows")
            text = "?"
        given = files.field(row, "mask", where)
        paths = [given] if isinstance(given, str) else given or []
        target = np.zeros(size, bool)
        for path in paths:
            mask = read_labels(self._root / path, size) > 0
            if not mask.any():
                complain("bad mask", f"{self._root / path}: has no pixel above 0; write null in {where} where nothing fits")
            target |= mask
        return Prompt(
            task=self._task,
            text=text.strip(),
            answer=row.get("answer", ""),
            masks=target[None, None] if paths else np.zeros((0, 1, *size), bool),
            group=row.get("group", ""),
            key=str(self._lines[n]),
        )
