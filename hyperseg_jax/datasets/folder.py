"""Your own images and texts: a folder with captions.jsonl, one text per line:

    {"image": "images/0001.jpg", "text": "the red mug", "mask": "masks/0001_mug.png"}

mask: a black and white image whose white pixels are the target (untrusted/mask_images), a list of images (their union), or
null if the text refers to nothing. answer: optional explanation. group: optional tag for scores by group. split: optional.
An optional field may be null.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.labels import read_mask_image
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped_value, is_name

TASKS = ("referring", "reasoning")
MAX_SPLITS = 100
"""Maximum number of splits of a captions.jsonl, each of which is reported by itself."""


class Folder(PerImage):
    """Random access to the lines of captions.jsonl, in file order."""

    needs_image_size = True

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        split: str = "",
        task: str = "referring",
        prompts_per_example: int = 1,
    ):
        """folder: paths in captions.jsonl are relative to it. split: reads only lines with this "split", and malformed lines,
        whose split is unknown. task: "referring", or "reasoning", which uses answers."""
        if task not in TASKS:
            raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
        self._root, self._task = files.existing_folder(folder), task
        self._file = files.JsonLines(files.join_inside(self._root, "captions.jsonl", str(self._root)))
        self.name = self._root.name
        self._splits = [self._read_split_field(n) for n in range(len(self._file))]
        if len(set(self._splits)) > MAX_SPLITS:
            raise UserError(f"{self._file.path}: has {len(set(self._splits))} splits, and at most {MAX_SPLITS} are supported")
        if (split or None) not in (None, *self._splits) or not self._splits:
            raise UserError(f"{self._file.path}: no line {f'with split {split!r}' if split else 'in it'}; add some")
        self._records = [n for n, line_split in enumerate(self._splits) if not split or line_split in (split, None)]
        self._group_prompts(len(self._records), self._image_name, prompts_per_example)

    def _read_split_field(self, line: int) -> str | None:
        """Returns the split of a line: "" if it has none, None if the line is malformed."""
        try:
            return self._parse_split(line)
        except UserError:
            return None

    def _parse_split(self, line: int) -> str:
        split = fields.optional_name_field(self._file[line], "split", self._file.where(line))
        if not is_name(split):
            raise UserError(f"{self._file.where(line)}: split {escaped_value(split)} is no short printable text; change it")
        return split

    def split_of(self, index: int) -> str:
        """Returns the split of the first line of an example; "" if it has none."""
        return self._splits[self._records[self._groups[index][0]]] or ""

    def _image_name(self, n: int) -> str:
        line = self._records[n]
        return fields.text_field(self._file[line], "image", self._file.where(line))

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, None]:
        line = self._records[n]
        return files.path_field(self._root, self._file[line], "image", self._file.where(line)), None

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        line = self._records[n]
        row, where = self._file[line], self._file.where(line)
        self._parse_split(line)
        text = fields.sentence_field(row, "text", where)
        mask = fields.field(row, "mask", where)
        names = [mask] if isinstance(mask, str) else [] if mask is None else fields.text_list_field(row, "mask", where)
        target = np.zeros(size, bool)
        for name in names:
            path = files.join_inside(self._root, name, f"{where} mask")
            budget.charge_masks(1, size, where)
            pixels = read_mask_image(path, size)
            if pixels is None:
                continue
            if not pixels.any():
                report_problem("bad mask", f"{path}: has no white pixel; write null in {where} if the text refers to nothing")
            target |= pixels
        return Prompt(
            task=self._task,
            text=text.strip(),
            answer=fields.optional_text_field(row, "answer", where),
            masks=target[None, None] if names else np.zeros((0, 1, *size), bool),
            group=fields.optional_name_field(row, "group", where),
            key=str(line),
        )
