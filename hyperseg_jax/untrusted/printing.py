"""Sanitizes untrusted names and texts for messages: no markup, no control characters, no lone surrogates, limited length."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

NAME, LINE = 200, 1200
"""Maximum number of characters of a name, and of a message."""
LISTED = 100
"""Maximum number of lines of a list below a message."""


class _Values(reprlib.Repr):
    """Short forms of values, also of integers that have too many digits for Python."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**100 else f"an integer of {x.bit_length()} bits"


_values = _Values()
_values.maxstring = _values.maxother = 60


def printable(text: str) -> str:
    """Escapes all characters that are not printable, except newlines and tabs."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def message(text: str) -> str:
    """Formats the message of an error or log for the terminal. Newlines in names are escaped; lines of a list that are indented
    by two spaces stay lines."""
    return re.sub(r"\n(?!  )", r"\\n", printable(text))


def is_name(value: object) -> bool:
    """Whether an untrusted value can be printed as a name without changes."""
    return isinstance(value, str) and value.isprintable() and len(value) <= NAME


def one_line(text: str | os.PathLike[str], most: int = LINE) -> str:
    """Formats a message or path as one printable line; the middle of long texts is omitted."""
    text = os.fspath(text)
    if len(text) > most:
        text = f"{text[: most * 3 // 4]} ... {text[-most // 4 :]}"
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def escaped(text: str) -> str:
    """Formats an untrusted name or text for a message."""
    return one_line(text, NAME)


def escaped_value(value: object) -> str:
    """Formats an untrusted value for a message: strings in quotes, only the first elements of lists and dicts."""
    return one_line(_values.repr(value), NAME)


def listed(lines: Sequence[str]) -> str:
    """Formats untrusted lines below a message: the first LISTED of them, and the number of further ones."""
    more = [f"... {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*map(escaped, lines[:LISTED]), *more])


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message, or the type of the error."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def escape_markup(text: str) -> str:
    """Formats a text for table cells, titles and progress bars, which rich interprets as markup."""
    return escape(one_line(text))


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Returns a console that prints names as they are: rich would replace ":bomb:" even without markup."""
    return Console(stderr=stderr, quiet=quiet, emoji=False)


def log(console: Console, text: str) -> None:
    """Prints a message without markup or highlighting."""
    console.print(message(text), highlight=False, markup=False, soft_wrap=True)
