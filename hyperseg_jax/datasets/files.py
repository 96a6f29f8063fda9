"""Reads images and json files; error messages name the file and the fix. `fields` reads the values of records."""

from __future__ import annotations

import contextlib
import contextvars
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import Problem, active_collector, report_problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget, images, json_text, paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.orientation import UPRIGHT

T = TypeVar("T")


def join_inside(root: str | os.PathLike, name: object, where: str) -> pathlib.Path:
    """Returns root/name for an untrusted name. where: the source of the name. Raises UserError if the path leaves root
    (untrusted/paths)."""
    try:
        return paths.join_inside(root, name)
    except BadFile as error:
        raise Problem("bad record", f"{where}: {error}") from error


def path_field(root: str | os.PathLike, record: Any, name: str, where: str) -> pathlib.Path:
    """Returns the path below root that a field of a record names. where: the record, for messages. Raises UserError like
    `join_inside`, and if it is missing."""
    return join_inside(root, fields.field(record, name, where), f"{where} {name}")


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Converts a path. A path of `join_inside` is returned as it is, so that it will be checked again."""
    return path if isinstance(path, pathlib.Path) else pathlib.Path(path)


def subpath(root: str | os.PathLike, *names: str) -> pathlib.Path:
    """Returns a path with fixed names below a configured folder. Raises UserError if a link leads out of that folder."""
    return join_inside(root, "/".join(names), str(root))


def list_files(root: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Returns the sorted files below a folder that match a pattern. Links that leave the folder are reported and skipped."""
    matches = []
    for path in sorted(root.glob(pattern)):
        try:
            matches.append(join_inside(root, path.relative_to(root), str(root)))
        except Problem as problem:
            report_problem(problem.kind, str(problem))
    return matches


def check_regular(path: pathlib.Path, what: str) -> None:
    """Raises a Problem if the path is not a regular file; for files that a library opens by name. what: the kind of file, for
    messages."""
    with _converting_file_errors(path, what):
        paths.check_regular(path)


class Json:
    """A json file that is read on first access, once per process. Its content is not pickled to workers."""

    def __init__(self, path: str | os.PathLike, kind: type):
        """kind: list or dict, the expected content. Raises UserError if the file does not exist."""
        self.path = as_path(path)
        self._kind = kind
        if not self.path.is_file():
            raise Problem("missing file", f"{self.path}: no such file; check the path of the annotations")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_kind": self._kind}

    @property
    def content(self) -> Any:
        """The list or dict of the file. Raises UserError if the file is not json or contains another type."""
        if "_content" not in self.__dict__:
            content = self._read_content()
            if not isinstance(content, self._kind):
                actual = type(content).__name__
                raise UserError(
                    f"{self.path}: contains a {actual}, expected a {self._kind.__name__}; give the file of this format"
                )
            self._content = content
        return self._content

    def _read_content(self) -> Any:
        return read_json(self.path)


class JsonLines(Json):
    """A file with one json object per line; empty lines are skipped. A malformed line raises when its record is read."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path, list)

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, n: int) -> dict:
        """Returns record n, from 0. Raises UserError if its line is malformed."""
        record = self.content[n][1]
        if isinstance(record, UserError):
            raise UserError(str(record))  # a new exception, because each raise extends the traceback
        return record

    def where(self, n: int) -> str:
        """Returns the location of record n for messages: the file and the line number, from 1."""
        return f"{self.path} line {self.content[n][0]}"

    def _read_content(self) -> list[tuple[int, dict | UserError]]:
        """Returns (line number, record or error) of each line. Raises UserError if no line is valid."""
        data = _read_bytes(self.path)
        with _converting_file_errors(self.path):
            if not json_text.is_damaged_utf8(data):  # another encoding: lines that look like UTF-8 may be wrong
                json_text.decode_text(data)
        rows = [
            (number, _parse_object_or_error(line, f"{self.path} line {number}"))
            for number, line in enumerate(data.split(b"\n"), 1)
            if line.strip()
        ]
        errors = [row for _, row in rows if isinstance(row, UserError)]
        if errors and len(errors) == len(rows):
            raise errors[0]
        return rows


def _parse_object_or_error(line: bytes, where: str) -> dict | UserError:
    """Parses one line of a JsonLines file; returns the error instead of raising it."""
    try:
        row = _parse_json(line, where)
    except UserError as error:
        return error
    return row if isinstance(row, dict) else UserError(f"{where}: is not a json object; write one {{...}} per line")


def read_json(path: pathlib.Path, other: str = "") -> Any:
    """Reads a json file in UTF-8. other: an encoding of some files of a benchmark, see `json_text.find_encoding`."""
    data = _read_bytes(path)
    return _parse_json(data, str(path), json_text.find_encoding(data, other) if other else json_text.UTF8)


def read_lines(path: pathlib.Path, what: str, other: str = "") -> list[str]:
    """Reads the lines of a text file in UTF-8. what: the kind of file, for messages. other: see `read_json`."""
    data = _read_bytes(path, what)
    with _converting_file_errors(path, what):
        text = json_text.decode_text(data, json_text.find_encoding(data, other) if other else json_text.UTF8)
    return [line.rstrip("\r") for line in text.split("\n")]


def _read_bytes(path: pathlib.Path, what: str = "file") -> bytes:
    with _converting_file_errors(path, what):
        return json_text.read_bytes(path)


@contextlib.contextmanager
def _converting_file_errors(path: pathlib.Path, what: str = "file") -> Iterator[None]:
    """Converts errors of reading a file to a Problem with its path. what: the kind of file, for messages."""
    try:
        yield
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such {what}; check the path") from error
    except (BadFile, OSError) as error:
        why = str(error) if isinstance(error, BadFile) else f"cannot be read ({error.strerror}); check the path"
        raise Problem("bad record", f"{path}: {why}") from error


def _parse_json(data: bytes, where: str, encoding: str = json_text.UTF8) -> Any:
    try:
        return json_text.parse_json(data, encoding)
    except BadFile as error:
        raise Problem("bad record", f"{where}: {error}") from error


ImageReads = list[tuple[pathlib.Path, np.ndarray]]
"""Paths of image files that were read, with their pixels."""
_image_reads: contextvars.ContextVar[ImageReads | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def record_image_reads() -> Iterator[ImageReads]:
    """Records every image file read inside the context with its pixels, so that a build can store the original file."""
    read: ImageReads = []
    token = _image_reads.set(read)
    try:
        yield read
    finally:
        _image_reads.reset(token)


def read_image(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3], upright and on white (untrusted/images).

    size: the expected (height, width). `data check` decodes each image once and returns zeros after that. Raises UserError if
    the file is missing, truncated, not an image, or has another size.
    """
    seen = active_collector()
    try:
        if seen is None:
            pixels = _read_pixels(path)
        else:
            pixels = np.zeros((*seen.sizes[path], 3), np.uint8) if path in seen.sizes else _read_pixels(path)
            seen.sizes[path] = pixels.shape[:2]
        if size is not None:
            _check_image_size(pixels, size, path)
    except Problem as problem:
        if size is None:  # a check cannot continue without the expected size
            raise
        report_problem(problem.kind, str(problem))
        return np.zeros((*size, 3), np.uint8)
    budget.charge_frame(pixels.shape, str(path))
    read = _image_reads.get()
    if read is not None:
        read.append((path, pixels))
    return pixels


def read_segment_ids(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray | None:
    """Reads an image file whose colours encode segment ids, as uint8 [H, W, 3].

    size: the expected (height, width). Raises UserError like `read_image`; during a check, reports the problem and returns
    None.
    """
    try:
        with _converting_image_errors(path):
            pixels = images.read_colours(path)
        _check_image_size(pixels, size, path)
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return None
    return pixels


def _read_pixels(path: pathlib.Path) -> np.ndarray:
    with _converting_image_errors(path):
        return images.read_rgb(path)


@contextlib.contextmanager
def _converting_image_errors(path: pathlib.Path) -> Iterator[None]:
    """Converts errors of reading an image file to a Problem with its path."""
    budget.check_time(str(path))
    try:
        yield
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such image; check the image folder") from error
    except BadFile as error:
        raise Problem("unreadable image", f"{path}: {error}") from error


def _check_image_size(pixels: np.ndarray, size: tuple[int, int], path: pathlib.Path) -> None:
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return
    what, fix = f"{width}x{height} pixels", "annotation and image must have the same size"
    with _converting_image_errors(path):
        orientation = images.read_orientation(path)
    if orientation != UPRIGHT:
        what += f" when turned upright (its EXIF orientation is {orientation})"
        fix = "annotate the upright image, or remove its orientation"
    raise Problem("wrong size", f"{path}: is {what}, its annotations say {size[1]}x{size[0]}; {fix}")


def read_image_size(path: pathlib.Path) -> tuple[int, int]:
    """Reads (height, width) from the header of an image file. Raises UserError if it is missing or not an image."""
    with _converting_image_errors(path):
        return images.read_size(path)


def existing_folder(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of an existing folder. Raises UserError if it does not exist."""
    stores.check_local(os.fspath(path))
    path = as_path(path)
    if not path.is_dir():
        raise Problem("missing file", f"{path}: no such folder; check the path of the images")
    return path


def split_evenly(items: list[T], size: int) -> list[list[T]]:
    """Splits a list into consecutive parts of nearly equal length, each with at most `size` items."""
    count = -(-len(items) // size)
    return [items[len(items) * k // count : len(items) * (k + 1) // count] for k in range(count)]
