"""MMBench: a tsv with the columns {index, question, hint, A, B, C, D, answer, category, image}; image is a base64 image or the
index of the row with that image."""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import io
import itertools
import os
from collections.abc import Iterator

import numpy as np

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.choices import LETTERS, format_question
from hyperseg_jax.datasets.id_index import note_duplicates
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget, images, limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped_value

CHOICES = "ABCD"
INDEX_LENGTH = 64  # a shorter image field is an index
LONGEST_ROW = 2**27


class MmBench:
    """Random access to the rows of one table in file order; rows are read on access. group: the category."""

    def __init__(self, table_path: str | os.PathLike, *, hints: bool = True):
        """table_path: such as mmbench_dev_en.tsv; test tables have no answers. hints: whether prompts include the hint."""
        self._path = files.as_path(table_path)
        self._hints = hints
        files.check_regular(self._path, "table")
        limits.check_limit("json_bytes", self._path.stat().st_size, str(self._path), "bytes")
        rows = self._read_raw_rows()
        self._names = self._split_cells(next(rows)[1], " header")
        if len(set(self._names)) < len(self._names):
            raise UserError(f"{self._path}: two columns have the same name; rename one of them")
        for name in ("index", "question", "A", "B", "image"):
            if name not in self._names:
                raise UserError(f"{self._path}: no column {name!r}; give a table of MMBench")
        self._offsets: list[tuple[int, int]] = []
        self._row_of: dict[str, int] = {}
        """Index -> number of the first row with that index."""
        for n, (start, raw) in enumerate(rows):
            self._offsets.append((start, len(raw)))
            with contextlib.suppress(UserError):  # raised again when the row is read
                self._row_of.setdefault(self._parse_row(raw, n)["index"], n)

    def _read_raw_rows(self) -> Iterator[tuple[int, bytes]]:
        """Yields (byte offset, content) of each row, starting with the header. A row spans several lines while a quote is
        open."""
        start, quotes, row = 0, 0, bytearray()
        with paths.open_file(self._path) as file:
            while line := file.readline(LONGEST_ROW):
                row += line
                if len(row) >= LONGEST_ROW:
                    raise UserError(f"{self._path}: a row is longer than {LONGEST_ROW} bytes; download it again")
                quotes += line.count(b'"')
                if quotes % 2 == 0:
                    yield start, bytes(row)
                    start, quotes, row = start + len(row), 0, bytearray()
        if row or not start:
            raise UserError(f"{self._path}: the last row is truncated or the file is empty; download it again")

    def _split_cells(self, raw: bytes, what: str) -> list[str]:
        csv.field_size_limit(LONGEST_ROW)
        try:
            rows = list(csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), delimiter="\t"))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self._path}{what}: cannot be read ({error}); download it again") from error
        if len(rows) != 1:  # the csv reader splits rows differently than `_read_raw_rows`
            raise UserError(f"{self._path}{what}: has a quote inside a cell or a lone carriage return; correct the row")
        return rows[0]

    def _parse_row(self, raw: bytes, n: int) -> dict[str, str]:
        cells = self._split_cells(raw, f"#{n}")
        if len(cells) != len(self._names):
            raise UserError(f"{self._path}#{n}: has {len(cells)} cells, the header {len(self._names)}; download it again")
        return dict(zip(self._names, cells, strict=True))

    def _read_row(self, n: int) -> dict[str, str]:
        """Reads row n from the file and parses it."""
        start, size = self._offsets[n]
        with paths.open_file(self._path) as file:
            file.seek(start)
            return self._parse_row(file.read(size), n)

    def __len__(self) -> int:
        return len(self._offsets)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        row, where = self._read_row(index), f"{self._path}#{index}"
        if (first := self._row_of.get(row["index"], index)) != index:
            report_problem(
                "bad record", f"{where}: index {escaped_value(row['index'])} is also the index of #{first}; correct one of them"
            )
        choices = list(itertools.takewhile(_is_given, (row.get(letter, "") for letter in CHOICES)))
        if any(_is_given(row.get(letter, "")) for letter in CHOICES[len(choices) :]):
            raise UserError(f"{where}: choice {CHOICES[len(choices)]} is empty, but a later choice is not; correct it")
        note_duplicates(choices, where, "choices")
        answer = row.get("answer", "").strip()
        if answer and answer not in tuple(LETTERS[: len(choices)]):
            raise UserError(f"{where}: answer {escaped_value(answer)} is not one of its choices; correct it")
        hint, question = row.get("hint", ""), fields.sentence_field(row, "question", where)
        prompt = Prompt(
            task="chat",
            text=format_question(question, choices, hint if self._hints and hint != "nan" else ""),
            answer=answer,
            group=row.get("category", ""),
            key=row["index"],
        )
        pixels = self._decode_image(row["image"], where)
        budget.charge_frame(pixels.shape, where)
        return Example(f"{self._path.name}#{index}", pixels[None], (prompt,))

    def _decode_image(self, image: str, where: str) -> np.ndarray:
        """Decodes the image cell of a row: base64, or the index of another row that contains the image."""
        if len(image) <= INDEX_LENGTH:
            if image not in self._row_of:
                raise Problem("missing file", f"{where}: image {image!r} is not a row of the table; download it again")
            image = self._read_row(self._row_of[image])["image"]
        try:
            return images.read_rgb(base64.b64decode(image, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Problem("unreadable image", f"{where}: its image cannot be read ({error}); download it again") from error
        except BadFile as error:
            raise Problem("unreadable image", f"{where}: its image {error}") from error


def _is_given(choice: str) -> bool:
    return choice not in ("", "nan")
