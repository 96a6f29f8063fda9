"""What all readers of files that are not trusted share: the map of a file, and how a refusal is worded."""

from __future__ import annotations

import contextlib
import mmap
import pathlib
from collections.abc import Iterator

from hyperseg_jax.errors import ENDING, UserError
from hyperseg_jax.untrusted.printing import first_line, one_line, shown

ANOTHER_COPY = "take another copy of it"
CONVERT = "convert it to safetensors with the tools that wrote it"
DISTRUST = "do not load this file with other tools either; ask its authors for safetensors"


class BadFile(Exception):
    """Why a file is refused and what to do, where its path is not known; `naming` makes a UserError of it."""

    def __init__(self, why: str, fix: str = ANOTHER_COPY) -> None:
        super().__init__(f"{why}; {fix}")
        self.why, self.fix = why, fix

    def about(self, name: str) -> BadFile:
        """The same of one tensor in the file."""
        return BadFile(f"{shown(name)}: {self.why}", self.fix)


def reason(error: BaseException) -> str:
    """Why a file or store cannot be read or written, without what to do."""
    if isinstance(error, BadFile):
        return error.why
    return getattr(error, "strerror", None) or one_line(f"{type(error).__name__}: {first_line(error)}", 400)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Turns BadFile and OSError into a UserError that names the path."""
    try:
        yield
    except BadFile as error:
        raise UserError(f"{one_line(path)}: {error}") from error
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read ({error.strerror}); check the path") from error


@contextlib.contextmanager
def without_panics(what: str) -> Iterator[None]:
    """BadFile for what a library raises, panics of native code among it, which are no Exceptions. what: a clause that they are
    told behind ("is no tokenizer"). Lets through UserError, BadFile, and what ends a process."""
    try:
        yield
    except (UserError, BadFile, *ENDING):
        raise
    except BaseException as error:
        raise BadFile(f"{what} ({shown(first_line(error))})") from error


def map_file(path: pathlib.Path) -> memoryview:
    """The bytes of a file, mapped read-only; the map goes when the last view of it does. Raises BadFile, OSError."""
    if not path.is_file():  # of pipes, reading would never end
        raise BadFile("no such file", "check the path")
    if path.stat().st_size == 0:
        raise BadFile("is empty")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
