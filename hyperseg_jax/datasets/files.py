"""Reading pictures and json with messages that name the file, the field and the fix."""

from __future__ import annotations

import contextlib
import contextvars
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from hyperseg_jax.datasets.problems import Problem, collected, complain
from hyperseg_jax.errors import UserError

T = TypeVar("T")

MOST_PIXELS = 2**28  # beyond what Pillow opens


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
            for number, line in enumerate(_decoded(self.path).split("\n"), 1)
            if line.strip()
        ]
        faults = [row for _, row in rows if isinstance(row, UserError)]
        if faults and len(faults) == len(rows):
            raise faults[0]
        return rows


def _object_or_fault(line: str, where: str) -> dict | UserError:
    try:
        record = _parsed(line, where)
    except UserError as error:
        return error
    return record if isinstance(record, dict) else UserError(f"{where}: is no json object; write {{...}} a line")


def read_json(path: pathlib.Path) -> Any:
    """The content of a json file (UTF-8, or else Windows-1252 as some ReasonSeg files are)."""
    return _parsed(_decoded(path), str(path))


def _decoded(path: pathlib.Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""  # of a file of lines, `where` names it
        why = f"{error.msg} at {line}column {error.colno}"
        raise UserError(f"{where}: not json ({why}); download or write it again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not json ({error}); download or write it again") from error


def field(record: Any, name: str, where: str) -> Any:
    """record[name], or a UserError that says which field is missing where. name: "image_info", "image_info.height"."""
    value = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{where}: field {name!r} is missing; check that the file is of this format")
        value = value[part]
    return value


def number(record: Any, name: str, where: str) -> int:
    """A whole number out of a record, or a UserError."""
    value = field(record, name, where)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # infinity is none
    if isinstance(value, bool) or not whole:
        raise UserError(f"{where}: field {name!r} is {value!r} where a whole number belongs; correct the record")
    return int(value)


def picture_size(record: Any, where: str, height: str = "height", width: str = "width") -> tuple[int, int]:
    """(height, width) that a record promises; height, width: what its fields are called."""
    size = number(record, height, where), number(record, width, where)
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise UserError(f"{where}: the picture would be {size[1]}x{size[0]} pixels; correct its height and width")
    return size


def box_mask(box: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """[x, y, width, height] as bool [H, W], cut at the picture's border; UserError where nothing of it is left."""
    mask = np.zeros(size, bool)
    try:
        x, y, width, height = (float(value) for value in box)
        rows = slice(max(0, math.floor(y)), max(0, math.ceil(y + height)))
        mask[rows, max(0, math.floor(x)) : max(0, math.ceil(x + width))] = True
    except (TypeError, ValueError, OverflowError) as error:
        complain("bad mask", f"{where}: a box is [x, y, width, height], found {str(box)[:60]}; correct it ({error})")
        return mask
    if not mask.any():
        complain("bad mask", f"{where}: box {list(box)} has no pixel of its picture, {size[1]}x{size[0]}; correct or remove it")
    return mask


Read = list[tuple[pathlib.Path, np.ndarray]]
"""Picture files that were read, and their pixels."""
_recorded: contextvars.ContextVar[Read | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Read]:
    """A list that every picture file read meanwhile, and its pixels, is added to, so that a build can keep the file itself."""
    read: Read = []
    token = _recorded.set(read)
    try:
        yield read
    finally:
        _recorded.reset(token)


def read_picture(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture file as uint8 [H, W, 3].

    size: the (height, width) that the annotations promise. A check reads each picture once, and then takes an empty one.
    UserError for a file that is missing, truncated, no picture, or of another size.
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
    read = _recorded.get()
    if read is not None:
        read.append((path, pixels))
    return pixels


def read_coded(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray | None:
    """A picture file whose colours are numbers of segments, as uint8 [H, W, 3].

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
    try:
        with Image.open(path) as file:
            return rgb(file)
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such picture; check the picture folder") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        message = f"{path}: cannot be read as a picture ({error}); download it again or remove it"
        raise Problem("unreadable picture", message) from error


def _check_size(pixels: np.ndarray, size: tuple[int, int], path: pathlib.Path) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != tuple(size):
        raise Problem(
            "wrong size",
            f"{path}: is {width}x{height} pixels, its annotations say {size[1]}x{size[0]}; "
            "annotation and picture must be of one size",
        )


def rgb(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; Pillow would copy a picture that has these colours already."""
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def picture_shape(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) of a picture file out of its first bytes. UserError where it is missing or no picture."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such picture; check the picture folder") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        message = f"{path}: cannot be read as a picture ({error}); download it again or remove it"
        raise Problem("unreadable picture", message) from error


def existing_folder(path: str | os.PathLike) -> pathlib.Path:
    """The path, or a UserError where there is no such folder."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise Problem("missing file", f"{path}: no such folder; check the path of the pictures")
    return path


def chunks(items: list[T], size: int) -> list[list[T]]:
    """Consecutive groups of nearly equal length, none longer than size."""
    count = -(-len(items) // size)
    return [items[len(items) * k // count : len(items) * (k + 1) // count] for k in range(count)]
