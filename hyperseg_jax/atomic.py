"""Atomic writes of files and folders. Temporary files left behind by killed processes are removed by later processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped

DAY = 24 * 3600
"""Age in seconds at which a temporary folder counts as stale when file locks cannot tell whether its writer is alive."""
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PART = re.compile(r"\.(.*)\.hyperseg-[0-9a-f]{8}-[a-z0-9_]{8}$", re.DOTALL)
_NAME = 40  # letters of the written name in the name of its temporary folder
_swept: set[pathlib.Path] = set()


def is_temporary(path: os.PathLike[str] | str) -> bool:
    """Whether the name of a path is that of a temporary folder created by this module."""
    return _PART.match(pathlib.PurePath(path).name) is not None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path with the same file name on the same disk; the file written there is renamed to `path` on exit.

    After an exception, or if the temporary file was not written or was deleted, `path` is unchanged and the temporary file is
    removed. Concurrent writers are allowed: the last one wins. An OSError names `path`. Raises UserError for a device such as
    /dev/null, which root would replace for all programs of the machine.
    """
    with contextlib.suppress(OSError):
        if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise UserError(f"{path}: is a device, not a file; give a file")
    with _temporary_folder(path) as (new, _):
        yield new
        if new.exists():
            new.replace(path)


def check_replaceable(folder: pathlib.Path, outputs: Iterable[str], sources: Iterable[pathlib.Path] = ()) -> None:
    """Raises UserError if replacing `folder` would delete anything but earlier outputs.

    outputs: glob patterns of the names that an earlier run may have written, folders with a slash at the end. sources: inputs
    that must not lie in `folder` or be the folder itself. A folder that a killed process was replacing is restored before.
    """
    target = pathlib.Path(os.path.realpath(folder))  # unlike resolve(), realpath accepts cycles of links
    for parent in (folder.parent, target.parent):
        clean(parent)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a new folder")
    for source in sources:
        real_source = pathlib.Path(os.path.realpath(source))
        if target == real_source or target in real_source.parents:
            raise UserError(f"{folder}: is or contains {source}, which would be deleted; give a new folder")
    patterns = tuple(outputs)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_folder = path.is_dir() and not path.is_symlink()
        is_output = any(path.match(pattern) and pattern.endswith("/") == is_folder for pattern in patterns)
        if not is_temporary(path) and not is_output:
            raise UserError(f"{folder}: contains {escaped(path.name)}, which would be deleted; give a new folder")


@contextlib.contextmanager
def atomic_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder on the same disk, which replaces `folder` on exit.

    After an exception the temporary folder is removed and `folder` is unchanged. Raises OSError, which names `folder` or a path
    in it, if writing fails or if another process has removed or replaced the temporary folder.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(folder) as (new, before):
        new.mkdir()
        with _check_not_replaced(new, folder):
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
                remove_tree(before.parent)  # another process wrote the folder in the meantime; the last writer wins


@contextlib.contextmanager
def _check_not_replaced(temporary: pathlib.Path, folder: pathlib.Path) -> Iterator[None]:
    """Raises OSError, naming `folder`, if its temporary folder was removed or replaced during the body, so that files are
    lost."""
    handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.lstat(temporary)):
                return
        raise FileNotFoundError(
            errno.ENOENT, "its temporary folder was removed by another process; run the command again", str(folder)
        )
    finally:
        os.close(handle)


@contextlib.contextmanager
def scratch_folder() -> Iterator[pathlib.Path]:
    """Yields a folder in the system's temporary directory. It is removed on exit, or by a later process after a kill."""
    with _temporary_folder(pathlib.Path(tempfile.gettempdir()) / "scratch") as (new, _):
        new.mkdir()
        yield new


@contextlib.contextmanager
def _temporary_folder(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields (path for the new content, path for the old content) in a new hidden folder next to `path`, and removes the folder
    on exit.

    An flock on the hidden folder marks it as in use; the system releases the lock when the process ends in any way. Also
    removes stale hidden folders next to `path`, once per process.
    """
    clean(parent := path.parent.absolute())
    try:
        part, handle = _create_locked_folder(parent, path.name)
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
        remove_tree(part)
        os.close(handle)


def _create_locked_folder(parent: pathlib.Path, name: str) -> tuple[pathlib.Path, int]:
    """Creates a hidden folder for the content of `name`. Returns it and the file descriptor that holds its lock."""
    while True:
        part = pathlib.Path(tempfile.mkdtemp(prefix=f".{name[:_NAME]}.hyperseg-{_HOST}-", dir=parent))
        try:
            handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process removed it as stale before it was locked
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is just removing it as stale
            os.close(handle)
            continue
        except OSError:  # a file system without locks; stale folders are recognized by age only
            return part, handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(part)):
                return part, handle
        os.close(handle)


def remove_tree(folder: pathlib.Path) -> None:
    """Removes a folder and its content at any depth, ignoring errors. Links are not followed."""
    for path in reversed(list(_walk(folder))):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the folder and all paths in it, at any depth, each folder before its content. Links are not followed. Not
    recursive, since folders may be nested deeper than Python's recursion limit."""
    stack = [folder]
    while stack:
        path = stack.pop()
        yield path
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                stack += path.iterdir()


def clean(folder: pathlib.Path) -> None:
    """Calls `remove_stale` once per process. Must be called before paths in `folder` are checked, since it may restore some."""
    if (folder := folder.absolute()) not in _swept:
        _swept.add(folder)
        remove_stale(folder)


def restore(path: pathlib.Path) -> None:
    """Restores a folder that does not exist because a process was killed while it replaced the folder. Ignores errors."""
    if not os.path.lexists(path):
        remove_stale(path.parent, path.name)


def remove_stale(folder: pathlib.Path, name: str | None = None) -> None:
    """Removes the temporary folders of killed processes in `folder`: of this machine if they are not locked, of other machines
    after a day. Ignores errors. name: only removes those of this file or folder."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a null character in the path
        for entry in os.listdir(folder):
            if (match := _PART.match(entry)) and (name is None or match[1] == name[:_NAME]):
                with contextlib.suppress(OSError):  # a stale folder does no harm
                    _remove_if_stale(folder / entry)


def _remove_if_stale(part: pathlib.Path) -> None:
    """Removes a temporary folder if its process was killed, after moving back the old content if there is no new one."""
    handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return
        lock_is_reliable = part.name[-17:-9] == _HOST
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            lock_is_reliable = False
        if not lock_is_reliable and time.time() - max(os.lstat(path).st_mtime for path in _walk(part)) < DAY:
            return
        if (saved := _old_content(part)) and not os.path.lexists(part.parent / saved.name):
            saved.replace(part.parent / saved.name)
        remove_tree(part)
    finally:
        os.close(handle)


def _old_content(part: pathlib.Path) -> pathlib.Path | None:
    """Returns the old content in a temporary folder, which exists if a writer was killed between two renames. The temporary
    folder may be from someone else: its old content must be a single file or folder, no link, of the name that it stands
    for."""
    before, match = part / "before", _PART.match(part.name)
    entries = list(before.iterdir()) if before.is_dir() and not before.is_symlink() else []
    if match is None or len(entries) != 1 or entries[0].name[:_NAME] != match[1]:
        return None
    kind = os.lstat(entries[0]).st_mode
    return entries[0] if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else None
