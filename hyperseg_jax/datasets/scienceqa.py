"""ScienceQA: problems.json {id: {question, choices, answer, hint, image, subject}}, pid_splits.json {split: [ids]},
images/{split}/{id}/image.png."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.choices import LETTERS, in_words
from hyperseg_jax.datasets.per_picture import PerPicture
from hyperseg_jax.datasets.problems import complain
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted.printing import shown


class ScienceQa(PerPicture):
    """Random access to the questions of a split that have a picture, in its order; group is the subject.

    text_only: questions left out because they have no picture.
    """

    def __init__(self, folder: str | os.PathLike, split: str, *, hints: bool = True):
        """folder: with problems.json, pid_splits.json and images. split: "train", "val", "test", "minitest", ...
        hints: whether the hint stands before the question."""
        root = pathlib.Path(folder)
        self._file = files.Json(files.inside(root, "problems.json", str(root)), dict)
        self._images, self._hints = files.part(root, "images"), hints
        splits = files.Json(files.inside(root, "pid_splits.json", str(root)), dict).content
        if split not in splits:
            raise UserError(f"{root / 'pid_splits.json'}: no split {split!r}; it has {shown(', '.join(splits) or 'none')}")
        self.name = f"scienceqa:{split}"
        self._keys = [key for key in splits[split] if self._row(key).get("image")]
        self.text_only = len(splits[split]) - len(self._keys)
        self._arrange(len(self._keys), self._keys.__getitem__, 1)

    def _row(self, key: str) -> dict[str, Any]:
        return files.field(self._file.content, key, str(self._file.path))

    def _picture(self, n: int) -> tuple[pathlib.Path, None]:
        key = self._keys[n]
        split = files.field(self._row(key), "split", f"{self._file.path} {key}")
        where = f"{self._file.path} {key}"
        return files.inside(self._images, f"{split}/{key}/{files.text(self._row(key), 'image', where)}", where), None

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        key, where = self._keys[n], f"{self._file.path} {self._keys[n]}"
        row = self._row(key)
        choices, answer = files.field(row, "choices", where), files.number(row, "answer", where)
        if not 0 <= answer < min(len(choices), len(LETTERS)):
            complain("bad record", f"{where}: answer {answer} is none of its {len(choices)} choices; correct it")
            answer = 0
        hint = row.get("hint", "") if self._hints else ""
        return Prompt(
            task="chat",
            text=in_words(files.field(row, "question", where), choices, hint),
            answer=LETTERS[answer],
            group=row.get("subject", ""),
            key=key,
        )
