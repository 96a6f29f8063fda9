"""Safe handling of file names in untrusted data: they must stay inside their folder and name regular files."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import pathlib
import stat
from typing import Any

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value

BLOCK = 2**16
LONGEST = 4096
"""Maximum bytes of a path."""
OUTSIDE_FIX = "give --limits outside=True"
ASSETS = pathlib.Path(__file__).parents[1] / "assets"
"""The folder of shipped models in the installed package. It is trusted; some installers create links for its files."""


class _InsidePath(pathlib.PosixPath):
    """A path that `join_inside` returned. It is checked again when it is used, since a folder may be replaced in the meantime.

    joined: its root and name.
    """

    joined: tuple[str | os.PathLike, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_inside_path, (os.fspath(self), self.joined)


def _make_inside_path(path: str | os.PathLike, joined: tuple[str | os.PathLike, str] | None) -> _InsidePath:
    result = _InsidePath(path)
    result.joined = joined
    return result


def _check_again(path: str | os.PathLike) -> None:
    if isinstance(path, _InsidePath) and path.joined:
        join_inside(*path.joined)


def join_inside(root: str | os.PathLike, name: object) -> pathlib.Path:
    """Returns root/name for a `name` from an untrusted file or listing.

    root is trusted and may be a link. Raises BadFile if the name is not a valid file name, or, unless limits.outside is set, if
    it leaves root through an absolute path, "..", or a link. When the path is used as another root, or opened, it is checked
    again.
    """
    _check_again(root)
    if not isinstance(name, str | os.PathLike):
        raise BadFile(f"{escaped_value(name)} is not a file name", "correct it")
    text = os.fspath(name)
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not text.strip() or b"\0" in encoded or len(encoded) > LONGEST or max(map(len, encoded.split(b"/"))) > 255:
        raise BadFile(f"{escaped_value(text)} is not a file name", "correct it")
    path = _make_inside_path(os.path.join(root, text), (root, text))
    if limits.current().outside:
        return path
    base = "" if os.path.isabs(root) else os.getcwd()
    real_root = _resolve_folder(os.path.join(base, root))
    try:
        real_path = _resolve(os.path.join(base, path))
    except OSError as error:
        raise BadFile(f"{escaped(text)} cannot be resolved ({error.strerror})", "correct it") from error
    if _is_inside(real_root, real_path):
        return path
    if _is_inside(real_root, os.path.normpath(os.path.join(real_root, text))):
        raise BadFile(
            f"{escaped(text)} is a link that leaves {root}", f"copy the file there, or, if you trust the link, {OUTSIDE_FIX}"
        )
    raise BadFile(f"{escaped(text)} leaves {root}", f"correct the name, or, if it is intended, {OUTSIDE_FIX}")


def model_file_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file in a model folder. Raises BadFile if it is a link that leaves the folder. Allowed are links
    from snapshots to blobs in a Hugging Face cache, links of shipped models, and all links if limits.outside is set."""
    real_folder, real_path = pathlib.Path(os.path.realpath(folder)), os.path.realpath(folder / name)
    blobs = [parent.parent / "blobs" for parent in real_folder.parents if parent.name == "snapshots"][:1]
    trusted = limits.current().outside or folder.parent == ASSETS
    if trusted or any(_is_inside(str(allowed), real_path) for allowed in (real_folder, *blobs)):
        return folder / name
    raise BadFile(
        f"{escaped(name)} is a link out of this folder",
        f"give the folder that it points to, or, if you trust the link, {OUTSIDE_FIX}",
    )


def _is_inside(folder: str, path: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _resolve(path: str) -> str:
    """Resolves all links in an absolute path. The resolved folder is cached, since many files share it, as long as the path
    leads to the same folder."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    try:
        real = os.path.join(_resolve_existing(folder), name)
        return os.path.realpath(real) if stat.S_ISLNK(os.lstat(real).st_mode) else real
    except OSError:  # the file or its folder does not exist, or there is a cycle of links
        return os.path.realpath(path)


def _resolve_folder(folder: str) -> str:
    try:
        return _resolve_existing(folder)
    except OSError:
        return os.path.realpath(folder)


def _resolve_existing(folder: str) -> str:
    status = os.stat(folder)
    real = _resolve_once(folder, status.st_dev, status.st_ino)
    return real if os.path.samestat(os.lstat(real), status) else os.path.realpath(folder, strict=True)


@functools.lru_cache(maxsize=4096)
def _resolve_once(folder: str, device: int, number: int) -> str:
    """Resolves a path to the folder with this number on this device."""
    return os.path.realpath(folder, strict=True)


def check_regular(path: pathlib.Path) -> None:
    """Raises BadFile if a path is not a regular file, since reading a pipe or device may never end; OSError (such as
    FileNotFoundError) if it cannot be accessed."""
    _check_regular(os.stat(path))


def check_link(path: pathlib.Path) -> pathlib.Path:
    """Returns the path. Raises BadFile if it is a link that leaves its parent folder."""
    return join_inside(path.parent, path.name)


def open_file(path: pathlib.Path) -> io.BufferedReader:
    """Opens a file for reading. Raises BadFile and OSError as `check_regular`, and as `join_inside` if it returned the path and
    a folder of it has been replaced."""
    _check_again(path)
    check_regular(path)  # before opening, since opening a device may have side effects
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))  # the file may have been replaced in the meantime
    except BadFile:
        file.close()
        raise
    return file


def append_to(path: pathlib.Path) -> io.BufferedWriter:
    """Opens a file for appending and creates it if necessary. Raises BadFile if it is a link or not a regular file; OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.fdopen(os.open(path, flags, 0o644), "ab")
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe without reader, a folder
            raise
        raise BadFile("is not a regular file", "remove it") from error
    try:
        _check_regular(os.fstat(file.fileno()))
    except BadFile:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadFile("is not a regular file", "give the path of a file")


def read_file(path: pathlib.Path, max_bytes: int, limit: str = "") -> bytes:
    """Reads a regular file of at most `max_bytes` bytes. limit: the field of Limits that sets max_bytes, if any. Raises
    BadFile, OSError."""
    fix = f"if that is intended, raise limits.{limit}" if limit else ANOTHER_COPY
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadFile(f"has {size} bytes, and the limit is {max_bytes}", fix)
        data = file.read(size)  # reads no more than the size, since the buffer is allocated in advance
        while len(data) <= max_bytes and (more := file.read(BLOCK)):  # the file grew, or is a virtual file of size 0
            data += more
    if len(data) > max_bytes:
        raise BadFile(f"has more than {max_bytes} bytes, which is the limit", fix)
    return data


def rename_damaged(path: pathlib.Path) -> pathlib.Path:
    """Renames an unusable file or folder to NAME.damaged-K in the same folder, and returns the new path."""
    names = (path.with_name(f"{path.name[:200]}.damaged-{k}") for k in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    return aside


def move_aside(path: pathlib.Path, what: str) -> str:
    """Renames a path in the place of a log with `rename_damaged`, and returns a message. what: kind of the log."""
    return f"{rename_damaged(path)}: was not {what}; starting a new one"


def make_replaceable(path: pathlib.Path, what: str) -> str:
    """Moves a folder aside that has the name of a log; atomic writes replace everything else, also links. Returns a message,
    "" if nothing was moved. what: kind of the log."""
    return move_aside(path, what) if path.is_dir() and not path.is_symlink() else ""
