"""Reading images and json with messages that name the file, the field and the fix."""

from __future__ import annotations

import contextlib
import contextvars
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from hyperseg_jax.datasets.check_errors import Problem, collected, complain
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget, images, json_text, limits, paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown_value

T = TypeVar("T")

LARGEST_NUMBER = 2**60
"""Beyond it, numbers can be made to collide in a dict, which then takes hours."""


def inside(root: str | os.PathLike, name: object, where: str) -> pathlib.Path:
    """root/name, for a name out of data. where: what names it. UserError where it leaves root (untrusted/paths)."""
    try:
        return paths.inside(root, name)
    except BadFile as error:
        raise Problem("bad record", f"{where}: {error}") from error


def part(root: str | os.PathLike, *names: str) -> pathlib.Path:
    """A file or folder of a fixed name below a folder that the config names. UserError where it is a link out of it."""
    return inside(root, "/".join(names), str(root))


def listed(root: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """The files below a folder that match, in order; a link that leaves the folder is a problem, and left out."""
    found = []
    for path in sorted(root.glob(pattern)):
        try:
            found.append(inside(root, path.relative_to(root), str(root)))
        except Problem as problem:
            complain(problem.kind, str(problem))
    return found


def check_regular(path: pathlib.Path, what: str) -> None:
    """A Problem where it is no regular file, for files that a library opens by their name. what: it is, for the message."""
    with _naming_file(path, what):
        paths.check_regular(path)


class Json:
    """A json file that is read when first asked for, once a process, and left behind when pickled to a worker."""

    def __init__(self, path: str | os.PathLike, kind: type):
        """kind: list or dict, what the file must hold. UserError where the file does not exist."""
        self.path = pathlib.Path(path)
        self._kind = kind
        if not self.path.is_file():
            raise Problem("missing file", f"{self.path}: no such file; check the path of the annotations")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_kind": self._kind}

    @property
    def content(self) -> Any:
        """The file's list or dict. UserError where it is not json or holds something else."""
        if "_content" not in self.__dict__:
            content = self._read()
            if not isinstance(content, self._kind):
                found = type(content).__name__
                raise UserError(f"{self.path}: holds a {found} where a {self._kind.__name__} belongs; wrong file?")
            self._content = content
        return self._content

    def _read(self) -> Any:
        return read_json(self.path)


class JsonLines(Json):
    """A file of one json object a line, empty lines aside. A malformed line is a record that raises when it is read."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path, list)

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, n: int) -> dict:
        """Record n, from 0. UserError where its line is malformed."""
        record = self.content[n][1]
        if isinstance(record, UserError):
            raise UserError(str(record))  # a new one, as each raise adds to the traceback of an exception
        return record

    def where(self, n: int) -> str:
        """What record n is called in messages: the file and the line, from 1 as editors count."""
        return f"{self.path} line {self.content[n][0]}"

    def _read(self) -> list[tuple[int, dict | UserError]]:
        """(line, record or what is wrong with it). UserError for a file without any sound line."""
        rows = [
            (number, _object_or_fault(line, f"{self.path} line {number}"))
            for number, line in enumerate(_content(self.path).split(b"\n"), 1)
            if line.strip()
        ]
        faults = [row for _, row in rows if isinstance(row, UserError)]
        if faults and len(faults) == len(rows):
            raise faults[0]
        return rows


def _object_or_fault(line: bytes, where: str) -> dict | UserError:
    try:
        row = _parsed(line, where)
    except UserError as error:
        return error
    return row if isinstance(row, dict) else UserError(f"{where}: is no json object; write {{...}} a line")


def read_json(path: pathlib.Path) -> Any:
    """The content of a json file (UTF-8, or else Windows-1252 as some ReasonSeg files are)."""
    return _parsed(_content(path), str(path))


def read_lines(path: pathlib.Path, what: str) -> list[str]:
    """The lines of a text file in UTF-8, or else Latin-1. what: it is, for the message."""
    data = _content(path, what)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line.rstrip("\r") for line in text.split("\n")]


def _content(path: pathlib.Path, what: str = "file") -> bytes:
    with _naming_file(path, what):
        return json_text.read_bytes(path)


@contextlib.contextmanager
def _naming_file(path: pathlib.Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such {what}; check the path") from error
    except (BadFile, OSError) as error:
        why = str(error) if isinstance(error, BadFile) else f"cannot be read ({error.strerror}); check the path"
        raise Problem("bad record", f"{path}: {why}") from error


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json_text.parse(data)
    except BadFile as error:
        raise Problem("bad record", f"{where}: {error}") from error


def field(record: Any, name: str, where: str) -> Any:
    """record[name], or a UserError that says which field is missing where. name: "image_info", "image_info.height"."""
    if isinstance(record, dict) and name in record:  # names out of files may have a point in them
        return record[name]
    value = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Problem("bad record", f"{where}: field {name!r} is missing; check that the file is of this format")
        value = value[part]
    return value


def _of_kind(value: Any, kind: type[T], what: str, name: str, where: str) -> T:
    if not isinstance(value, kind):
        raise Problem("bad record", f"{where}: field {name!r} is {shown_value(value)} where {what} belongs; correct the record")
    return value


def text(record: Any, name: str, where: str, default: str | None = None) -> str:
    """A text out of a record, or a UserError. default: given for a record without the field."""
    if default is not None and isinstance(record, dict) and name not in record:
        return default
    return _of_kind(field(record, name, where), str, "a text", name, where)


def rows(record: Any, name: str, where: str) -> list:
    """A list out of a record, or a UserError."""
    return _of_kind(field(record, name, where), list, "a list", name, where)


def texts(record: Any, name: str, where: str) -> list[str]:
    """A list of texts out of a record, or a UserError."""
    values = rows(record, name, where)
    return [_of_kind(value, str, "a text", f"{name}[{k}]", where) for k, value in enumerate(values)]


def table(record: Any, name: str, where: str) -> dict[str, Any]:
    """A table of fields out of a record, or a UserError."""
    return _of_kind(field(record, name, where), dict, "a table {...}", name, where)


def identity(record: Any, name: str, where: str) -> int | str:
    """What tells one record from others: a whole number or a text, or a UserError."""
    return _identity(field(record, name, where), name, where)


def identities(record: Any, name: str, where: str) -> list[int | str]:
    """A list of what tells records apart, or a UserError."""
    return [_identity(value, f"{name}[{k}]", where) for k, value in enumerate(rows(record, name, where))]


def _identity(value: Any, name: str, where: str) -> int | str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (type(value) is int and abs(value) < LARGEST_NUMBER):
        return value
    raise Problem("bad record", f"{where}: field {name!r} is {shown_value(value)}, which is no number of a record; correct it")


def number(record: Any, name: str, where: str) -> int:
    """A whole number out of a record, or a UserError."""
    value = field(record, name, where)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # infinity is none
    if isinstance(value, bool) or not whole or abs(value) >= LARGEST_NUMBER:
        raise Problem(
            "bad record", f"{where}: field {name!r} is {shown_value(value)} where a whole number belongs; correct the record"
        )
    return int(value)


def flag(record: Any, name: str, where: str, default: bool | None = None) -> bool:
    """True or False out of a record, also written as 1 or 0, or a UserError. default: given for a record without the field."""
    if default is not None and isinstance(record, dict) and name not in record:
        return default
    value = field(record, name, where)
    if not isinstance(value, int | float) or value not in (0, 1):
        told = f"field {name!r} is {shown_value(value)} where 0 or 1 belongs"
        raise Problem("bad record", f"{where}: {told}; correct the record")
    return bool(value)


def amount(record: Any, name: str, where: str) -> float:
    """A number out of a record, or a UserError."""
    value = field(record, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        raise Problem(
            "bad record", f"{where}: field {name!r} is {shown_value(value)} where a number belongs; correct the record"
        )
    return float(value)


def image_size(record: Any, where: str, height: str = "height", width: str = "width") -> tuple[int, int]:
    """(height, width) that a record promises; height, width: what its fields are called."""
    size = number(record, height, where), number(record, width, where)
    most = limits.current().pixels
    if min(size) < 1 or size[0] * size[1] > most:
        would = shown_value(size[1]) + "x" + shown_value(size[0])
        raise Problem(
            "bad record",
            f"{where}: the image would be {would} pixels, and the limit is {most}; correct its height and width, or raise "
            "limits.pixels",
        )
    return size


Read = list[tuple[pathlib.Path, np.ndarray]]
"""Image files that were read, and their pixels."""
_recorded: contextvars.ContextVar[Read | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Read]:
    """A list that every image file read meanwhile, and its pixels, is added to, so that a build can keep the file itself."""
    read: Read = []
    token = _recorded.set(read)
    try:
        yield read
    finally:
        _recorded.reset(token)


def read_image(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """An image file as uint8 [H, W, 3].

    size: the (height, width) that the annotations promise. A check reads each image once, and then takes an empty one.
    UserError for a file that is missing, truncated, no image, or of another size.
    """
    seen = collected()
    try:
        if seen is None:
            pixels = _pixels(path)
        else:
            pixels = np.zeros((*seen.sizes[path], 3), np.uint8) if path in seen.sizes else _pixels(path)
            seen.sizes[path] = pixels.shape[:2]
        if size is not None:
            _check_size(pixels, size, path)
    except Problem as problem:
        if size is None:  # a check cannot go on without a promised size
            raise
        complain(problem.kind, str(problem))
        return np.zeros((*size, 3), np.uint8)
    budget.charge_frame(pixels.shape, str(path))
    read = _recorded.get()
    if read is not None:
        read.append((path, pixels))
    return pixels


def read_coded(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray | None:
    """An image file whose colours are numbers of segments, as uint8 [H, W, 3].

    size: the (height, width) that it must have. UserError as for `read_picture`; None where a check goes on without it.
    """
    try:
        pixels = _pixels(path)
        _check_size(pixels, size, path)
    except Problem as problem:
        complain(problem.kind, str(problem))
        return None
    return pixels


def _pixels(path: pathlib.Path) -> np.ndarray:
    with _naming(path):
        return images.colours(path)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turns what is wrong with an image file into a Problem."""
    budget.check_time(str(path))
    try:
        yield
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such image; check the image folder") from error
    except BadFile as error:
        raise Problem("unreadable image", f"{path}: {error}") from error


def _check_size(pixels: np.ndarray, size: tuple[int, int], path: pathlib.Path) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != tuple(size):
        raise Problem(
            "wrong size",
            f"{path}: is {width}x{height} pixels, its annotations say {size[1]}x{size[0]}; "
            "annotation and image must be of one size",
        )


def image_shape(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) of an image file out of its first bytes. UserError where it is missing or no image."""
    with _naming(path):
        return images.size(path)


def existing_folder(path: str | os.PathLike) -> pathlib.Path:
    """The path, or a UserError where there is no such folder."""
    stores.check_local(os.fspath(path))
    path = pathlib.Path(path)
    if not path.is_dir():
        raise Problem("missing file", f"{path}: no such folder; check the path of the images")
    return path


def chunks(items: list[T], size: int) -> list[list[T]]:
    """Consecutive groups of nearly equal length, none longer than size."""
    count = -(-len(items) // size)
    return [items[len(items) * k // count : len(items) * (k + 1) // count] for k in range(count)]
