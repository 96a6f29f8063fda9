"""Files and folders that appear whole or not at all. What a killed process leaves of them is removed by the next one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import re
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import shown

DAY = 24 * 3600
"""Seconds after which a part is left over where nothing else tells whether its writer lives."""
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PART = re.compile(r"\..*\.hyperseg-([0-9a-f]{8})-[a-z0-9_]{8}$", re.DOTALL)
_swept: set[pathlib.Path] = set()


def is_part(path: os.PathLike[str] | str) -> bool:
    """Whether a path is, by its name, what this file writes before it is whole."""
    return _PART.match(pathlib.PurePath(path).name) is not None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path of the same name on the same disk, for whoever writes the file.

    At the end it is renamed to `path`. After an exception, or where nothing was written or it was deleted meanwhile, `path`
    stays as it was, and nothing is left. Several may write one path at once: the last one stays. OSError names `path`.
    """
    with _beside(path) as (new, _):
        yield new
        if new.exists():
            new.replace(path)


def check_free(folder: pathlib.Path, written: Iterable[str], sources: Iterable[pathlib.Path] = ()) -> None:
    """UserError unless writing `folder` as a whole loses nothing: it may hold only what was written there before (patterns of
    names), and no source may lie in it, nor it in a source."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a new folder")
    own = pathlib.Path(os.path.realpath(folder))  # unlike resolve(), it takes links in a circle
    for source in sources:
        there = pathlib.Path(os.path.realpath(source))
        if own == there or own in there.parents:
            raise UserError(f"{folder}: is or holds {source}, which would be lost; give a new folder")
    patterns = tuple(written)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_part(path) and not any(path.match(pattern) for pattern in patterns):
            raise UserError(f"{folder}: holds {shown(path.name)}, which would be lost; give a new folder")


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder on the same disk to write into. At the end it takes the place of what stood there, which is removed;
    after an exception it is removed itself. OSError names `folder` or what lies in it."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _beside(folder) as (new, before):
        new.mkdir()
        yield new
        while True:
            if folder.exists():
                before.parent.mkdir(exist_ok=True)
                folder.replace(before)
            try:
                new.replace(folder)
                break
            except OSError as error:
                if before.exists() and not folder.exists():
                    before.replace(folder)
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.is_dir():
                    raise
                remove(before.parent)  # another process was quicker; the last one stays


@contextlib.contextmanager
def scratch_folder() -> Iterator[pathlib.Path]:
    """A folder among the temporary ones of this machine, removed at the end or, after a kill, by a later process."""
    with _beside(pathlib.Path(tempfile.gettempdir()) / "scratch") as (new, _):
        new.mkdir()
        yield new


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """(where to write what becomes `path`, where to put what stood there), in a hidden folder beside it.

    The folder is locked as long as its writer lives, by an flock that no end of a process leaves behind.
    """
    if (parent := path.parent.absolute()) not in _swept:
        _swept.add(parent)
        sweep(parent)
    try:
        part, handle = _locked(parent, path.name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        (part / "new").mkdir()
        yield part / "new" / path.name, part / "before" / path.name
    except OSError as error:
        name = str(path) if error.filename is None else str(error.filename).replace(f"{part}/new", str(path.parent))
        if name == error.filename or (error.errno is None and type(error) is not OSError):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), name) from error
    finally:
        remove(part)
        os.close(handle)


def _locked(parent: pathlib.Path, name: str) -> tuple[pathlib.Path, int]:
    """A new hidden folder and the open file that locks it."""
    while True:
        part = pathlib.Path(tempfile.mkdtemp(prefix=f".{name[:40]}.hyperseg-{_HOST}-", dir=parent))
        try:
            handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process took it for left over, in the moment before it was locked
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # or just does
            os.close(handle)
            continue
        except OSError:  # a file system without locks: only its age will tell
            return part, handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(part)):
                return part, handle
        os.close(handle)


def remove(folder: pathlib.Path) -> None:
    """Removes a folder and what can be removed of what lies in it, to any depth. Links are not followed."""
    for path in reversed(list(_below(folder))):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder and all that lies in it, each folder before its content. Links are not followed; nothing recurses, as folders
    may be nested deeper than Python allows calls."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        yield path
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                waiting += path.iterdir()


def sweep(folder: pathlib.Path) -> None:
    """Removes what killed processes left in a folder: parts of this machine that nobody locks, others after a day."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _PART.match(name):
                with contextlib.suppress(OSError):  # it is in nobody's way
                    _remove_left_over(folder / name)


def _remove_left_over(part: pathlib.Path) -> None:
    handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return
        known = part.name[-17:-9] == _HOST
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            known = False
        if not known and time.time() - max(os.lstat(path).st_mtime for path in _below(part)) < DAY:
            return
        before = part / "before"  # holds something where a writer was killed between two renames
        for kept in () if before.is_symlink() else before.glob("*"):
            if not os.path.lexists(part.parent / kept.name):
                kept.replace(part.parent / kept.name)
        remove(part)
    finally:
        os.close(handle)
