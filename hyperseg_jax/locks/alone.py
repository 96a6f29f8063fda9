"""A lock between the processes of this machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from hyperseg_jax.errors import UserError


@contextlib.contextmanager
def alone(path: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock file of this machine, which no end of the process leaves locked. wait: else gives False at once where
    another has it. UserError where a link or no file stands in its place."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _opened(path)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks
                yield True
                return
            if not _is_still(path, handle):  # its holder before has removed it
                continue
            try:
                yield True
                return
            finally:
                if _is_still(path, handle):
                    path.unlink()
        finally:
            os.close(handle)


def _opened(path: pathlib.Path) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe, a folder
            raise
        raise UserError(f"{path}: is no lock file; remove it") from error


def _is_still(path: pathlib.Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
