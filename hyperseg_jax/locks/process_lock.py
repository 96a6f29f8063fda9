"""A lock between processes of this machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from hyperseg_jax.errors import UserError


@contextlib.contextmanager
def process_lock(path: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Holds an flock on a lock file during the body, and yields whether it is held. The system releases it when the process
    ends in any way.

    wait: waits until the lock is free; otherwise yields False immediately if another process holds it. On a file system
    without locks, yields True without a lock. Raises UserError if `path` is a link or not a regular file.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open(path)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks; continues without one
                yield True
                return
            if not _is_same_file(path, handle):  # the previous holder has removed the file
                continue
            try:
                yield True
                return
            finally:
                if _is_same_file(path, handle):
                    path.unlink()
        finally:
            os.close(handle)


def _open(path: pathlib.Path) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe, a folder
            raise
        raise UserError(f"{path}: is not a lock file; remove it") from error


def _is_same_file(path: pathlib.Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
