"""Names of files that stand in data: they stay below the folder that they are joined to, and name regular files."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import pathlib
import stat
from typing import BinaryIO

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, BadFile
from hyperseg_jax.untrusted.printing import shown, shown_value

BLOCK = 2**16
LONGEST = 4096
"""Bytes of a path."""
INSIDE = "correct the name, or set limits.outside where it is meant"


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
    home = _real(os.fspath(root))
    try:
        found = os.path.realpath(path)
    except OSError as error:
        raise BadFile(f"{shown(text)} cannot be followed ({error.strerror})", "correct it") from error
    if found != home and not found.startswith(os.path.join(home, "")):
        raise BadFile(f"{shown(text)} leaves {root}", INSIDE)
    return path


@functools.lru_cache(maxsize=256)
def _real(root: str) -> str:
    return os.path.realpath(root)


def open_file(path: pathlib.Path) -> BinaryIO:
    """A file opened for reading. BadFile where it is no regular file: of a pipe or a device, reading may never end. OSError,
    FileNotFoundError among them, where it cannot be opened."""
    _check_regular(os.stat(path))  # before it is opened, as opening a device may do something
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))  # it may have been exchanged
    except BadFile:
        file.close()
        raise
    return file


def append_to(path: pathlib.Path) -> BinaryIO:
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
