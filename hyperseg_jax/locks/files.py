"""The numbered files of a lock, in a folder of this machine or in a store that fsspec knows."""

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
from hyperseg_jax.untrusted.bad_file import BadFile, naming

BYTES = 4096
"""More is not read of a file."""
SETTLE = 2.0
"""Seconds until two that wrote one name at once see who was last, in a store that cannot create a name only once."""


class Files(Protocol):
    """Numbered small texts, of which each can be created once."""

    def numbers(self) -> list[int]: ...
    def read(self, number: int) -> str: ...
    def create(self, number: int, text: str) -> bool: ...
    def write(self, number: int, text: str) -> None: ...
    def remove(self, number: int) -> None: ...
    def age(self, number: int) -> float: ...


def open_files(folder: str) -> Files:
    """UserError where a folder of this machine is a link to elsewhere."""
    if stores.is_url(folder):
        return _There(folder)
    here = pathlib.Path(folder)
    with naming(here):
        return _Here(paths.inside(here.parent, here.name))


class _Here:
    """A folder of this machine, or one that several machines share."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / _name(number)

    def numbers(self) -> list[int]:
        """UserError where a folder or a link has the place of a file."""
        if not self._folder.is_dir():
            return []
        with os.scandir(self._folder) as entries:
            is_odd = {entry.name: entry.is_symlink() or entry.is_dir() for entry in entries}
        for name in _numbered(is_odd):
            if is_odd[name]:
                raise UserError(f"{self._folder / name}: is a folder or a link in a lock; remove it if no run works there")
        return _numbers(is_odd)

    def read(self, number: int) -> str:
        """ "" where it is gone or is just being created."""
        with contextlib.suppress(FileNotFoundError, BadFile), paths.open_file(self._path(number)) as file:
            return file.read(BYTES).decode(errors="replace").rstrip()
        return ""

    def create(self, number: int, text: str) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._path(number).open("xb") as file:
                file.write(_padded(text))
        except FileExistsError:
            return False
        except OSError:
            self.remove(number)
            raise
        return True

    def write(self, number: int, text: str) -> None:
        """In place and of the same length, which a full disk does not forbid. It is not made anew."""
        with self._path(number).open("r+b", buffering=0) as file:
            file.write(_padded(text))

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def age(self, number: int) -> float:
        """Seconds since it was last changed, by the clock of the file system; 0 where it does not tell."""
        probe = self._folder / f"now-{uuid.uuid4().hex}"
        try:
            probe.write_text("")
            return max(0.0, probe.stat().st_mtime - self._path(number).stat().st_mtime)
        except OSError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)


class _There:
    """A folder of a store."""

    def __init__(self, folder: str) -> None:
        import fsspec

        fs, self._folder = stores.filesystem(folder, use_listings_cache=False)
        self._fs: Any = fs
        pipe = getattr(fs, "_pipe_file", None) or fs.pipe_file  # the former is of the clients of real stores
        looks_first = getattr(pipe, "__func__", None) is fsspec.AbstractFileSystem.pipe_file
        self._creates_once = not looks_first and "mode" in inspect.signature(pipe).parameters

    def _path(self, number: int) -> str:
        return f"{self._folder}/{_name(number)}"

    def numbers(self) -> list[int]:
        self._fs.invalidate_cache()
        try:
            return _numbers([path.rsplit("/", 1)[-1] for path in self._fs.ls(self._folder, detail=False)])
        except FileNotFoundError:
            return []

    def read(self, number: int) -> str:
        try:
            return self._fs.cat_file(self._path(number), start=0, end=BYTES).decode(errors="replace").rstrip()
        except FileNotFoundError:
            return ""

    def create(self, number: int, text: str) -> bool:
        """Asked for by reading it back: a request that is repeated on its way is refused although it was ours."""
        failure: Exception | None = None
        if self._creates_once:
            try:
                self._fs.pipe_file(self._path(number), text.encode(), mode="create")
            except Exception as error:  # each store has its own word for a name that is taken
                failure = error
        elif not self.read(number):
            self._fs.makedirs(self._folder, exist_ok=True)
            self._fs.pipe_file(self._path(number), text.encode())
            time.sleep(SETTLE)
        there = self.read(number)
        if not there and failure is not None:
            raise failure
        return there == text

    def write(self, number: int, text: str) -> None:
        self._fs.pipe_file(self._path(number), text.encode())

    def remove(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(number))

    def age(self, number: int) -> float:
        """As of a folder; by the store's clock."""
        probe = f"{self._folder}/now-{uuid.uuid4().hex}"
        try:
            self._fs.pipe_file(probe, b"now")
            try:
                age = (self._fs.modified(probe) - self._fs.modified(self._path(number))).total_seconds()
            finally:
                self._fs.rm_file(probe)
            return max(0.0, age)
        except Exception:  # not every store tells times
            return 0.0


def _name(number: int) -> str:
    return f"{number:08d}"


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(map(int, _numbered(names)))


def _numbered(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.isascii() and name.isdigit() and 0 < len(name) <= 18]


def _padded(text: str) -> bytes:
    return text.encode().ljust(BYTES // 4)
