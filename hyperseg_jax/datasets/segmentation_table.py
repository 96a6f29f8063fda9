"""The tables of IFSeg: a tsv without a header, each line of which has an image and its label image in base64, and an id.

Label images have 0 for pixels without a class, and k + 1 for class k.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.class_words import ClassWords
from hyperseg_jax.datasets.label_images import ImageLabels
from hyperseg_jax.datasets.labels import MODES
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget, images, limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped_value

FORMATS = ("PNG", "JPEG")
"""Formats of images; label images are PNGs."""
CELLS = 3
LONGEST_LINE = 2**27
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class SegmentationTable(ImageLabels):
    """Random access to the lines of one table, in file order; lines are read on access. The key of a prompt is the id."""

    def __init__(self, table_path: str | os.PathLike, *, classes: Sequence[str] = (), benchmark: str = "", **options: Any):
        """classes: names of all classes. benchmark: instead of classes, a key of class_names.CLASS_LISTS. options: see
        label_images.ImageLabels. Raises UserError if the file is missing or empty, or a line is too long."""
        names = ClassWords(classes, benchmark=benchmark).classes
        super().__init__("", [], names, {k + 1: k for k in range(len(names))}, (0,), **options)
        self._path = files.as_path(table_path)
        self._name = self._path.name
        files.check_regular(self._path, "table")
        limits.check_limit("json_bytes", self._path.stat().st_size, str(self._path), "bytes")
        self._lines = np.fromiter(self._find_lines(), np.dtype((np.int64, 2)))  # tuples would need ten times the memory
        if not len(self._lines):
            raise UserError(f"{self._path}: is empty; give a table with an image, a label image and an id in each line")

    def _find_lines(self) -> Iterator[tuple[int, int]]:
        """Yields (byte offset, size) of each line that is not empty."""
        start = 0
        with paths.open_file(self._path) as file:
            while line := file.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise UserError(f"{self._path}: a line is longer than {LONGEST_LINE} bytes; it is no table of this format")
                if line.strip():
                    yield start, len(line)
                start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    def _read(self, index: int) -> tuple[str, np.ndarray, str, np.ndarray | None]:
        start, size = map(int, self._lines[index])
        where = f"{self._path}#{index}"
        with paths.open_file(self._path) as file:
            file.seek(start)
            cells = file.read(size).rstrip(b"\r\n").split(b"\t")
        if len(cells) != CELLS:
            raise Problem("bad record", f"{where}: has {len(cells)} cells; write an image, a label image and an id, with tabs")
        pixels = _decode(cells[0], lambda data: images.read_rgb(data, FORMATS), f"{where}: its image")
        budget.charge_frame(pixels.shape, where)
        numbers: np.ndarray | None = None
        try:
            read = lambda data: images.read_numbers(data, MODES, "label image")
            labels = _decode(cells[1], read, f"{where}: its label image")
            if labels.shape != pixels.shape[:2]:
                sizes = f"{labels.shape[1]}x{labels.shape[0]} pixels, its image {pixels.shape[1]}x{pixels.shape[0]}"
                raise Problem("wrong size", f"{where}: its label image is {sizes}; both must have the same size")
            numbers = labels
        except Problem as problem:
            report_problem(problem.kind, str(problem))
        try:
            key = cells[2].decode("utf-8")
        except UnicodeDecodeError as error:
            raise Problem("bad record", f"{where}: its id is not UTF-8; write the table again") from error
        return key, pixels, where, numbers


def _decode(cell: bytes, read: Callable[[bytes], np.ndarray], what: str) -> np.ndarray:
    """Decodes an image in base64, also with the letters for URLs. Raises a Problem."""
    try:
        return read(base64.b64decode(cell.translate(_URL_SAFE), validate=True))
    except (binascii.Error, ValueError) as error:
        raise Problem("unreadable image", f"{what} is no base64 ({error}); write the table again") from error
    except BadFile as error:
        raise Problem("unreadable image", f"{what} {error}") from error


def write_table(reader: Sequence[Example], path: pathlib.Path, advance: Callable[..., object] = lambda **_: None) -> None:
    """Writes the examples of a reader with class lists as a table, completely or not at all.

    Images and label images are PNGs. Where masks overlap, the later one is kept; ignored pixels have no class. advance: called
    with `completed` (examples written so far). Raises UserError if an example has no class list with masks, or another one than
    the first.
    """
    classes: tuple[str, ...] = ()
    with atomic_file(path) as new, new.open("wb") as file:
        for index in range(len(reader)):
            example = reader[index]
            (prompt, *others) = example.prompts
            if others or len(example.frames) != 1 or prompt.masks is None or not prompt.classes:
                why = "is not an image with one class list and its masks"
                raise UserError(f"{example.name}: {why}; give a benchmark of class lists")
            if index and prompt.classes != classes:
                raise UserError(f"{example.name}: has another class list than the first example; leave out max_classes")
            classes = prompt.classes
            numbers = np.zeros(example.frames.shape[1:3], np.uint8 if len(classes) < 256 else np.uint16)
            for mask, label in zip(prompt.masks[:, 0], prompt.labels, strict=True):
                numbers[mask] = label + 1
            if prompt.ignore is not None:
                numbers[prompt.ignore[0]] = 0
            key = " ".join((prompt.key or example.name).split())
            try:
                name = key.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{example.name}: its name {escaped_value(key)} is not valid Unicode; rename the image"
                ) from error
            file.write(b"\t".join((_encode(example.frames[0]), _encode(numbers), name)) + b"\n")
            advance(completed=index + 1)


def _encode(pixels: np.ndarray) -> bytes:
    """Encodes an image as a PNG in base64."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue())
