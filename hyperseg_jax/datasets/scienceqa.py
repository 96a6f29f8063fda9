"""ScienceQA: problems.json {id: {question, choices, answer, hint, image, subject}}, pid_splits.json {split: [ids]},
images/{split}/{id}/image.png."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.choices import LETTERS, format_question
from hyperseg_jax.datasets.id_index import IdIndex, note_duplicates
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted.printing import escaped


class ScienceQa(PerImage):
    """Random access to the questions of a split with an image, in the order of the split. group: the subject.

    text_only: the number of questions skipped because they have no image.
    """

    def __init__(self, folder: str | os.PathLike, split: str, *, hints: bool = True):
        """folder: contains problems.json, pid_splits.json and images. split: "train", "val", "test", "minitest", ...
        hints: whether prompts include the hint."""
        root = files.as_path(folder)
        self._file = files.Json(files.join_inside(root, "problems.json", str(root)), dict)
        self._images, self._hints = files.subpath(root, "images"), hints
        splits = files.Json(files.join_inside(root, "pid_splits.json", str(root)), dict)
        if split not in splits.content:
            raise UserError(
                f"{splits.path}: no split {split!r}; available splits: {escaped(', '.join(splits.content) or 'none')}"
            )
        self.name = f"scienceqa:{split}"
        keys = fields.list_field(splits.content, split, str(splits.path))
        self._ids = IdIndex([{"id": key} for key in keys], "id", f"{splits.path} {split}", strict=False).duplicates_only()
        self._keys, errors = list[str](), dict[int, UserError]()
        for k, key in enumerate(keys):
            try:
                row = self._question_record(fields.text_field({f"{split}[{k}]": key}, f"{split}[{k}]", str(splits.path)))
            except UserError as error:
                errors[len(self._keys)] = error.with_traceback(None)
                self._keys.append("")
            else:
                if not isinstance(row, dict) or row.get("image") not in (None, ""):
                    self._keys.append(key)
        self.text_only = len(keys) - len(self._keys)
        self._group_prompts(len(self._keys), self._keys.__getitem__, 1, errors)

    def _question_record(self, key: str) -> Any:
        return fields.field(self._file.content, key, str(self._file.path))

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, None]:
        key, where = self._keys[n], f"{self._file.path} {self._keys[n]}"
        split, image = (fields.text_field(self._question_record(key), name, where) for name in ("split", "image"))
        return files.join_inside(self._images, f"{split}/{key}/{image}", where), None

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        key, where = self._keys[n], f"{self._file.path} {self._keys[n]}"
        row = self._question_record(key)
        self._ids.check({"id": key}, where)
        choices, answer = fields.text_list_field(row, "choices", where), fields.integer_field(row, "answer", where)
        if not 0 <= answer < min(len(choices), len(LETTERS)):
            report_problem("bad record", f"{where}: answer {answer} is not one of its {len(choices)} choices; correct it")
            answer = 0
        note_duplicates(choices, where, "choices")
        hint = fields.optional_text_field(row, "hint", where) if self._hints else ""
        return Prompt(
            task="chat",
            text=format_question(fields.text_field(row, "question", where), choices, hint),
            answer=LETTERS[answer],
            group=fields.optional_name_field(row, "subject", where),
            key=key,
        )
