"""Names of files that stand in data: they stay below the folder that they are joined to, and name regular files."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import pathlib
import stat

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, BadFile
from hyperseg_jax.untrusted.printing import shown, shown_value

BLOCK = 2**16
LONGEST = 4096
"""Bytes of a path."""
MEANT = "give --limits outside=True"
ASSETS = pathlib.Path(__file__).parents[1] / "assets"
"""The shipped models, of the installed package, which is trusted; some installers make links of its files."""


def inside(root: str | os.PathLike, name: object) -> pathlib.Path:
    """root/name, where `name` is out of a file or a listing of the folder.

    root is trusted and may be a link. BadFile where the name is no text or no name of a file, and, unless limits.outside, where
    it leaves root: by an absolute path, by "..", or by a link.
    """
    if not isinstance(name, str | os.PathLike):
        raise BadFile(f"{shown_value(name)} is no name of a file", "correct it")
    text = os.fspath(name)
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not text.strip() or b"\0" in encoded or len(encoded) > LONGEST or max(map(len, encoded.split(b"/"))) > 255:
        raise BadFile(f"{shown_value(text)} is no name of a file", "correct it")
    path = pathlib.Path(root) / text
    if limits.in_force().outside:
        return path
    here = "" if os.path.isabs(root) else os.getcwd()
    home = _real(os.path.join(here, root))
    try:
        found = _followed(os.path.join(here, path))
    except OSError as error:
        raise BadFile(f"{shown(text)} cannot be followed ({error.strerror})", "correct it") from error
    if _below(home, found):
        return path
    if _below(home, os.path.normpath(os.path.join(home, text))):
        raise BadFile(f"{shown(text)} is a link that leaves {root}", f"copy the file there, or, if the link is yours, {MEANT}")
    raise BadFile(f"{shown(text)} leaves {root}", f"correct the name, or, if it is right, {MEANT}")


def of_model(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A file of a model folder. BadFile where it is a link out of it, unless as in Hugging Face's cache, from a folder in
    snapshots to blobs, the folder is a shipped model, or limits.outside."""
    home, found = pathlib.Path(os.path.realpath(folder)), os.path.realpath(folder / name)
    blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"][:1]
    trusted = limits.in_force().outside or folder.parent == ASSETS
    if trusted or any(_below(str(one), found) for one in (home, *blobs)):
        return folder / name
    raise BadFile(
        f"{shown(name)} is a link out of this folder", f"give the folder that it leads to, or, if the link is yours, {MEANT}"
    )


def _below(home: str, path: str) -> bool:
    return path == home or path.startswith(os.path.join(home, ""))


def _followed(path: str) -> str:
    """An absolute path without links. Of many files in one folder, the folder is followed once."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    try:
        real = os.path.join(_existing(folder), name)
        return os.path.realpath(real) if stat.S_ISLNK(os.lstat(real).st_mode) else real
    except OSError:  # it is not there, and neither may its folder be, or links go in a circle
        return os.path.realpath(path)


def _real(folder: str) -> str:
    try:
        return _existing(folder)
    except OSError:
        return os.path.realpath(folder)


@functools.lru_cache(maxsize=4096)
def _existing(folder: str) -> str:
    return os.path.realpath(folder, strict=True)


def check_regular(path: pathlib.Path) -> None:
    """BadFile where it is no regular file: of a pipe or a device, reading may never end. OSError, FileNotFoundError among them,
    where it is not there."""
    _check_regular(os.stat(path))


def own(path: pathlib.Path) -> pathlib.Path:
    """A file or folder of the folder that it stands in. BadFile where it is a link out of that."""
    return inside(path.parent, path.name)


def open_file(path: pathlib.Path) -> io.BufferedReader:
    """A file opened for reading. BadFile and OSError as of `check_regular`."""
    check_regular(path)  # before it is opened, as opening a device may do something
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))  # it may have been exchanged
    except BadFile:
        file.close()
        raise
    return file


def append_to(path: pathlib.Path) -> io.BufferedWriter:
    """A file opened for adding to it, made where there is none. BadFile where it is no regular file, or a link. OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.fdopen(os.open(path, flags, 0o644), "ab")
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe that nobody reads, a folder
            raise
        raise BadFile("is no regular file", "remove it") from error
    try:
        _check_regular(os.fstat(file.fileno()))
    except BadFile:
        file.close()
        raise
    return file


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadFile("is no regular file", "give a file")


def read_file(path: pathlib.Path, most: int, limit: str = "") -> bytes:
    """The content of a regular file of at most this many bytes. limit: the field of Limits that says how many, if any does.
    Raises BadFile, OSError."""
    fix = f"if that is right, raise limits.{limit}" if limit else ANOTHER_COPY
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise BadFile(f"has {size} bytes, and the limit is {most}", fix)
        data = file.read(size)  # no more is asked for at once, as the buffer is taken before the file is read
        while len(data) <= most and (more := file.read(BLOCK)):  # it grew, or is one of those that say 0
            data += more
    if len(data) > most:
        raise BadFile(f"has more than {most} bytes, and that is the limit", fix)
    return data


def put_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames what stands where it cannot be used, whatever it is, and returns its new name: NAME.damaged-K beside it."""
    names = (path.with_name(f"{path.name[:200]}.damaged-{k}") for k in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    return aside
