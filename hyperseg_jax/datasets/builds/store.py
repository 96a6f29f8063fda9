"""A folder on a local disk or in a remote store supported by fsspec (gs://, s3://, az://). All writes are atomic."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from hyperseg_jax.atomic import DAY, atomic_file, remove_stale
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text, limits, paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason

PART = ".part"


class Store:
    """The files of one folder. Every error of the store is raised as a UserError that names the file."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = os.fspath(folder).rstrip("/")
        self._fs: Any = None
        if stores.is_url(self.folder):
            self._fs, self._root = stores.open_filesystem(self.folder, use_listings_cache=False)
        self.path = pathlib.Path(self.folder) if self._fs is None else None
        """The local path of the folder; None for a remote store."""

    def __str__(self) -> str:
        return self.folder

    def subfolder(self, name: str) -> Store:
        if self.path is not None:
            with self._naming_file_in_errors(name, "read"):
                paths.join_inside(self.path, name)
        return Store(f"{self.folder}/{name}")

    def folders(self) -> list[str]:
        """Returns the names of the subfolders; an empty list if the folder does not exist."""
        with self._naming_file_in_errors("", "read"):
            if self.path is not None:
                return sorted(path.name for path in self.path.iterdir() if path.is_dir()) if self.path.is_dir() else []
            if not self._fs.isdir(self._root):
                return []
            paths = [row["name"].rstrip("/") for row in self._fs.ls(self._root) if row["type"] == "directory"]
            return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def size(self, name: str) -> int | None:
        """Returns the size of a file in bytes; None if it does not exist."""
        with self._naming_file_in_errors(name, "read"):
            try:
                if self.path is not None:
                    return paths.join_inside(self.path, name).stat().st_size
                return int(self._fs.info(self._full_path(name))["size"])
            except FileNotFoundError:
                return None

    def read_text(self, name: str) -> str | None:
        """Returns the content of a small file; None if it does not exist."""
        with self._naming_file_in_errors(name, "read"):
            try:
                limits.check_limit("json_bytes", self.size(name) or 0, f"{self.folder}/{name}", "bytes")
                if self.path is not None:
                    data = json_text.read_bytes(paths.join_inside(self.path, name))
                else:
                    data = self._fs.cat_file(self._full_path(name))
            except FileNotFoundError:
                return None
            return data.decode("utf-8", errors="replace")

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file atomically."""
        with self._naming_file_in_errors(name, "written"), self._temporary_name(name) as part:
            if self.path is not None:
                pathlib.Path(part).write_text(text, encoding="utf-8")
            else:
                self._fs.pipe_file(part, text.encode())

    def put(self, file: pathlib.Path, name: str) -> None:
        """Moves (on the same disk) or copies a local file into the folder atomically."""
        with self._naming_file_in_errors(name, "written"), self._temporary_name(name) as part:
            if self.path is not None:
                shutil.move(file, part)
            else:
                self._fs.put_file(str(file), part)

    def get(self, name: str, file: pathlib.Path) -> None:
        """Copies a file of the folder to a local path."""
        with self._naming_file_in_errors(name, "read"):
            if self.path is not None:
                shutil.copyfile(paths.join_inside(self.path, name), file)
            else:
                self._fs.get_file(self._full_path(name), str(file))

    def remove_stale(self) -> None:
        """Removes temporary files of killed writers; in a remote store only those older than a day, because running writers
        cannot be detected there."""
        if self.path is not None:
            remove_stale(self.path)
            return
        with contextlib.suppress(Exception):  # leftover files are harmless
            old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=DAY)
            for path in self._fs.glob(f"{self._root}/*{PART}"):
                if self._fs.modified(path) < old:
                    self._fs.rm_file(path)

    def _full_path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _temporary_name(self, name: str) -> Iterator[str]:
        """Yields a temporary name in the folder; at the end, the file with it is renamed to `name`."""
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(paths.join_inside(self.path, name)) as part:
                yield str(part)
        else:
            part_name = self._full_path(f"{name}.{uuid.uuid4().hex[:12]}{PART}")
            yield part_name
            self._fs.mv(part_name, self._full_path(name))

    @contextlib.contextmanager
    def _naming_file_in_errors(self, name: str, done: str) -> Iterator[None]:
        """Turns any exception into a UserError that names the file. done: what failed, "read" or "written"."""
        try:
            yield
        except UserError:
            raise
        except BadFile as error:
            raise UserError(f"{self.folder}/{name}: {error}") from error
        except Exception as error:  # each store raises its own exceptions
            where = f"{self.folder}/{name}" if name else self.folder
            advice = "free space and write permission" if done == "written" else "the path and read permission"
            raise UserError(f"{where}: cannot be {done} ({failure_reason(error)}); check {advice}") from error


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of the content of a file in hexadecimal."""
    with paths.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
