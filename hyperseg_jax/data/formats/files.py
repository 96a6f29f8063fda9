"""Reading pictures and json with messages that name the file, the field and the fix."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from hyperseg_jax.errors import UserError

T = TypeVar("T")


class Json:
    """A json file that is read when first asked for, once a process, and left behind when pickled to a worker."""

    def __init__(self, path: str | os.PathLike, kind: type):
        """kind: list or dict, what the file must hold. UserError where the file does not exist."""
        self.path = pathlib.Path(path)
        self._kind = kind
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; check the path of the annotations")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_kind": self._kind}

    @property
    def content(self) -> Any:
        """The file's list or dict. UserError where it is not json or holds something else."""
        if "_content" not in self.__dict__:
            content = read_json(self.path)
            if not isinstance(content, self._kind):
                found = type(content).__name__
                raise UserError(f"{self.path}: holds a {found} where a {self._kind.__name__} belongs; wrong file?")
            self._content = content
        return self._content


def read_json(path: pathlib.Path) -> Any:
    """The content of a json file (UTF-8, or else Windows-1252 as some ReasonSeg files are)."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not json ({error}); download or write it again") from error


def field(record: Any, name: str, where: str) -> Any:
    """record[name], or a UserError that says which field is missing where. name: "image_info", "image_info.height"."""
    value = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{where}: field {name!r} is missing; check that the file is of this format")
        value = value[part]
    return value


def read_picture(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture file as uint8 [H, W, 3].

    size: the (height, width) that the annotations promise. UserError for a file that is missing, truncated, no
    picture, or of another size.
    """
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture; check the picture folder") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); download it again or remove it") from error
    if size is not None and pixels.shape[:2] != tuple(size):
        raise UserError(
            f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations say {size[1]}x{size[0]}; "
            "annotation and picture must be of one size"
        )
    return pixels


def picture_shape(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) of a picture file out of its first bytes. UserError where it is missing or no picture."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture; check the picture folder") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); download it again or remove it") from error


def existing_folder(path: str | os.PathLike) -> pathlib.Path:
    """The path, or a UserError where there is no such folder."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; check the path of the pictures")
    return path


def chunks(items: list[T], size: int) -> list[list[T]]:
    """Consecutive groups of nearly equal length, none longer than size."""
    count = -(-len(items) // size)
    return [items[len(items) * k // count : len(items) * (k + 1) // count] for k in range(count)]
