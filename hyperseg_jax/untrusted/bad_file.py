"""The exception for invalid untrusted files, and memory-mapped files."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
from collections.abc import Iterator

from hyperseg_jax.errors import EXIT_EXCEPTIONS, UserError
from hyperseg_jax.untrusted.printing import escaped, first_line, one_line

ANOTHER_COPY = "get another copy of it"
CONVERT = "convert it to safetensors with the tools that wrote it"
DISTRUST = "the file may be malicious, so do not load it with other tools; ask its authors for safetensors"


class BadFile(Exception):
    """An invalid file, with the reason and the fix. Raised where the path is not known; `naming_path` makes it a UserError."""

    def __init__(self, why: str, fix: str = ANOTHER_COPY) -> None:
        super().__init__(f"{why}; {fix}")
        self.why, self.fix = why, fix

    def about(self, name: str) -> BadFile:
        """Returns a BadFile whose message starts with the name of the affected tensor."""
        return BadFile(f"{escaped(name)}: {self.why}", self.fix)


def failure_reason(error: BaseException) -> str:
    """Returns why a file or bucket could not be read or written, without the fix."""
    if isinstance(error, BadFile):
        return error.why
    return getattr(error, "strerror", None) or one_line(f"{type(error).__name__}: {first_line(error)}", 400)


@contextlib.contextmanager
def naming_path(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns BadFile and OSError into a UserError with the path, or with the option and its path."""
    try:
        yield
    except BadFile as error:
        raise UserError(f"{one_line(path)}: {error}") from error
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read ({error.strerror}); check the path") from error


@contextlib.contextmanager
def converting_exceptions(what: str) -> Iterator[None]:
    """Turns all exceptions of a library into BadFile, including panics of native code, which derive from BaseException.
    UserError, BadFile, and exceptions that end the process are not changed. what: the start of the message
    ("is not a tokenizer")."""
    try:
        yield
    except (UserError, BadFile, *EXIT_EXCEPTIONS):
        raise
    except BaseException as error:
        raise BadFile(f"{what} ({escaped(first_line(error))})") from error


def map_file(path: pathlib.Path) -> memoryview:
    """Maps a file into memory, read-only; it is unmapped together with its last view. Raises BadFile, OSError."""
    if not path.is_file():  # reading a pipe might never end
        raise BadFile("no such file", "check the path")
    if path.stat().st_size == 0:
        raise BadFile("is empty")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
