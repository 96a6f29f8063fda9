"""The numbered files of a lock, in a local folder or in a bucket (through fsspec)."""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
import time
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile, naming_path

BYTES = 4096
"""Maximum number of bytes that are read from a lock file."""
SETTLE = 2.0
"""In stores without exclusive creation: seconds from writing a file to reading it back, to see which of several concurrent
    writers was the last one."""


class Files(Protocol):
    """Small text files with numbers as names. create: returns False if the number already exists. age: seconds since the last
    change of a file."""

    def numbers(self) -> list[int]: ...
    def read(self, number: int) -> str: ...
    def create(self, number: int, text: str) -> bool: ...
    def write(self, number: int, text: str) -> None: ...
    def remove(self, number: int) -> None: ...
    def age(self, number: int) -> float: ...


def open_files(folder: str) -> Files:
    """Opens the files of a lock in a folder or bucket. Raises UserError if a local folder is a link out of its parent."""
    if stores.is_url(folder):
        return _StoreFiles(folder)
    path = pathlib.Path(folder)
    with naming_path(path):
        paths.join_inside(path.parent, path.name)
    if os.path.lexists(path) and not path.is_dir():  # such as a file, or a link that leads nowhere or to itself
        raise UserError(f"{path}: is not a folder, but the lock of a run is kept there; remove it if no run is active there")
    return _LocalFiles(path)


class _LocalFiles:
    """The files in a folder of a local or network file system."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / _file_name(number)

    def numbers(self) -> list[int]:
        """Returns the sorted file numbers. Raises UserError if one is a folder or a link."""
        if not self._folder.is_dir():
            return []
        with os.scandir(self._folder) as entries:
            is_invalid = {entry.name: entry.is_symlink() or entry.is_dir() for entry in entries}
        for name in _numbered_names(is_invalid):
            if is_invalid[name]:
                raise UserError(f"{self._folder / name}: is a folder or a link in a lock; remove it if no run is active there")
        return _sorted_numbers(is_invalid)

    def read(self, number: int) -> str:
        """Returns the text of a file; "" if it was removed or is just being created."""
        with contextlib.suppress(FileNotFoundError, BadFile), paths.open_file(self._path(number)) as file:
            return file.read(BYTES).decode(errors="replace").rstrip()
        return ""

    def create(self, number: int, text: str) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._path(number).open("xb") as file:
                file.write(_pad(text))
        except FileExistsError:
            return False
        except OSError:
            self.remove(number)
            raise
        return True

    def write(self, number: int, text: str) -> None:
        """Overwrites a file in place with the same length, which works even on a full disk. The file must exist."""
        with self._path(number).open("r+b", buffering=0) as file:
            file.write(_pad(text))

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def age(self, number: int) -> float:
        """Returns the seconds since the last change of a file, by the clock of the file system; 0 if it is unknown."""
        probe = self._folder / f"now-{uuid.uuid4().hex}"
        try:
            probe.write_text("")
            return max(0.0, probe.stat().st_mtime - self._path(number).stat().st_mtime)
        except OSError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)


class _StoreFiles:
    """The files in a folder of a bucket."""

    def __init__(self, folder: str) -> None:
        import fsspec

        fs, self._folder = stores.open_filesystem(folder, use_listings_cache=False)
        self._fs: Any = fs
        pipe = getattr(fs, "_pipe_file", None) or fs.pipe_file  # asynchronous clients implement _pipe_file
        is_racy = getattr(pipe, "__func__", None) is fsspec.AbstractFileSystem.pipe_file  # checks existence, then writes
        self._has_exclusive_create = not is_racy and "mode" in inspect.signature(pipe).parameters

    def _path(self, number: int) -> str:
        return f"{self._folder}/{_file_name(number)}"

    def numbers(self) -> list[int]:
        self._fs.invalidate_cache()
        try:
            return _sorted_numbers([path.rsplit("/", 1)[-1] for path in self._fs.ls(self._folder, detail=False)])
        except FileNotFoundError:
            return []

    def read(self, number: int) -> str:
        try:
            return self._fs.cat_file(self._path(number), start=0, end=BYTES).decode(errors="replace").rstrip()
        except FileNotFoundError:
            return ""

    def create(self, number: int, text: str) -> bool:
        """Creates a file and returns whether it is ours, determined by reading it back: if the client retried a successful
        request, the store reports a conflict although this process has created the file."""
        failure: Exception | None = None
        if self._has_exclusive_create:
            try:
                self._fs.pipe_file(self._path(number), text.encode(), mode="create")
            except Exception as error:  # stores raise different exceptions for an existing file
                failure = error
        elif not self.read(number):  # written and read back after SETTLE seconds
            self._fs.makedirs(self._folder, exist_ok=True)
            self._fs.pipe_file(self._path(number), text.encode())
            time.sleep(SETTLE)
        content = self.read(number)
        if not content and failure is not None:
            raise failure
        return content == text

    def write(self, number: int, text: str) -> None:
        self._fs.pipe_file(self._path(number), text.encode())

    def remove(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(number))

    def age(self, number: int) -> float:
        """Returns the seconds since the last change of a file, by the clock of the store; 0 if it is unknown."""
        probe = f"{self._folder}/now-{uuid.uuid4().hex}"
        try:
            self._fs.pipe_file(probe, b"now")
            try:
                age = (self._fs.modified(probe) - self._fs.modified(self._path(number))).total_seconds()
            finally:
                self._fs.rm_file(probe)
            return max(0.0, age)
        except Exception:  # not every store reports modification times
            return 0.0


def _file_name(number: int) -> str:
    return f"{number:08d}"


def _sorted_numbers(names: Iterable[str]) -> list[int]:
    """Returns the numbers among these file names, sorted; other names are ignored."""
    return sorted(map(int, _numbered_names(names)))


def _numbered_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.isascii() and name.isdigit() and 0 < len(name) <= 18]


def _pad(text: str) -> bytes:
    """Encodes a text with a fixed length, so that a file can be overwritten in place."""
    return text.encode().ljust(BYTES // 4)
