"""MMBench: a table with tabs, {index, question, hint, A, B, C, D, answer, category, image}; image is a picture in base64,
or the index of the row that has it."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import os
import pathlib

import numpy as np

from hyperseg_jax.datasets.choices import LETTERS, in_words
from hyperseg_jax.datasets.faults import one_record
from hyperseg_jax.datasets.problems import Problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import paths, pictures
from hyperseg_jax.untrusted.bad_file import BadFile

CHOICES = "ABCD"
INDEX_LENGTH = 64  # a shorter image is an index
LONGEST_ROW = 2**27


class MmBench:
    """Random access to the rows of one table, in its order; rows are read when asked for. group is the category."""

    def __init__(self, table_path: str | os.PathLike, *, hints: bool = True):
        """table_path: such as mmbench_dev_en.tsv; test tables have no answers. hints: whether the hint is asked along."""
        self._path = pathlib.Path(table_path)
        self._hints = hints
        if not self._path.is_file():
            raise Problem("missing file", f"{self._path}: no such file; check the path of the table")
        header, *self._rows = self._find_rows()
        self._names = self._cells(header, " header")
        for name in ("index", "question", "A", "B", "image"):
            if name not in self._names:
                raise UserError(f"{self._path}: no column {name!r}; is it a table of MMBench?")
        self._row_of: dict[str, int] | None = None

    def _find_rows(self) -> list[tuple[int, int]]:
        """(first byte, byte behind the last) of each row. A row goes on over lines while a quote is open."""
        rows: list[tuple[int, int]] = []
        start = at = quotes = 0
        with paths.open_file(self._path) as file:
            while line := file.readline(LONGEST_ROW):
                at += len(line)
                if at - start >= LONGEST_ROW:
                    raise UserError(f"{self._path}#{len(rows)}: is longer than {LONGEST_ROW} bytes; download it again")
                quotes += line.count(b'"')
                if quotes % 2 == 0:
                    rows.append((start, at))
                    start, quotes = at, 0
        if start != at or not rows:
            raise UserError(f"{self._path}: its last row is cut, or it is empty; download it again")
        return rows

    def _cells(self, place: tuple[int, int], what: str) -> list[str]:
        with paths.open_file(self._path) as file:
            file.seek(place[0])
            raw = file.read(place[1] - place[0])
        csv.field_size_limit(LONGEST_ROW)
        try:
            return next(csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), delimiter="\t"))
        except (UnicodeDecodeError, csv.Error, StopIteration) as error:
            raise UserError(f"{self._path}{what}: cannot be read ({error}); download it again") from error

    def _row(self, n: int) -> dict[str, str]:
        cells = self._cells(self._rows[n], f"#{n}")
        if len(cells) != len(self._names):
            raise UserError(f"{self._path}#{n}: has {len(cells)} cells, the header {len(self._names)}; download it again")
        return dict(zip(self._names, cells, strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    @one_record
    def __getitem__(self, index: int) -> Example:
        row = self._row(index)
        choices = [row[letter] for letter in CHOICES if row.get(letter, "") not in ("", "nan")]
        answer = row.get("answer", "").strip()
        if answer and answer not in LETTERS[: len(choices)]:
            raise UserError(f"{self._path}#{index}: answer {answer[:20]!r} is none of its choices; correct it")
        hint = row.get("hint", "")
        prompt = Prompt(
            task="chat",
            text=in_words(row["question"], choices, hint if self._hints and hint != "nan" else ""),
            answer=answer,
            group=row.get("category", ""),
            key=row["index"],
        )
        return Example(f"{self._path.name}#{index}", self._picture(row, index)[None], (prompt,))

    def _picture(self, row: dict[str, str], index: int) -> np.ndarray:
        where, image = f"{self._path}#{index}", row["image"]
        if len(image) <= INDEX_LENGTH:
            if self._row_of is None:
                self._row_of = {self._row(n)["index"]: n for n in range(len(self._rows))}
            if image not in self._row_of:
                raise Problem("missing file", f"{where}: image {image!r} is no row of the table; download it again")
            image = self._row(self._row_of[image])["image"]
        try:
            return pictures.colours(base64.b64decode(image, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Problem("unreadable picture", f"{where}: its image cannot be read ({error}); download it again") from error
        except BadFile as error:
            raise Problem("unreadable picture", f"{where}: its image {error}") from error
