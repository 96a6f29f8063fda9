"""What all readers of files that are not trusted share: the map of a file, and how a refusal is worded."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import reprlib
from collections.abc import Iterator

from hyperseg_jax.errors import UserError

ANOTHER_COPY = "take another copy of it"
CONVERT = "convert it to safetensors with the tools that wrote it"
LINE = 1200
"""Characters of a message."""
DISTRUST = "do not load this file with other tools either; ask its authors for safetensors"


class BadFile(Exception):
    """Why a file is refused and what to do, where its path is not known; `naming` makes a UserError of it."""

    def __init__(self, why: str, fix: str = ANOTHER_COPY) -> None:
        super().__init__(f"{why}; {fix}")
        self.why, self.fix = why, fix

    def about(self, name: str) -> BadFile:
        """The same of one tensor in the file."""
        return BadFile(f"{shown(name)}: {self.why}", self.fix)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Turns BadFile and OSError into a UserError that names the path."""
    try:
        yield
    except BadFile as error:
        raise UserError(f"{told(path)}: {error}") from error
    except OSError as error:
        raise UserError(f"{told(path)}: cannot be read ({error.strerror}); check the path") from error


@contextlib.contextmanager
def without_panics(what: str) -> Iterator[None]:
    """BadFile for what a library raises, panics of native code among it, which are no Exceptions. what: a clause that they are
    told behind ("is no tokenizer"). Lets through UserError, BadFile, and what ends a process."""
    try:
        yield
    except (UserError, BadFile, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise BadFile(f"{what} ({shown(first_line(error))})") from error


def shown(text: str) -> str:
    """Text out of a file as it may stand in a message: short, on one line, printable."""
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return short if short.isprintable() else ascii(short)


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200


def brief(value: object) -> str:
    """A value out of a file as it may stand in a message. One of a pickle may hold itself more often than can be written."""
    return shown(_SHORT.repr(value))


def one_line(text: str) -> str:
    """A message with texts out of a file in it, as it may be printed: on one line, printable, its middle left out where it is
    long."""
    if len(text) > LINE:
        text = f"{text[: LINE * 3 // 4]} ... {text[-LINE // 4 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def told(path: os.PathLike[str] | str) -> str:
    """A path as it may stand in a message: whole, on one line, printable."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def map_file(path: pathlib.Path) -> memoryview:
    """The bytes of a file, mapped read-only; the map goes when the last view of it does. Raises BadFile, OSError."""
    if not path.is_file():  # of pipes, reading would never end
        raise BadFile("no such file", "check the path")
    if path.stat().st_size == 0:
        raise BadFile("is empty")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
