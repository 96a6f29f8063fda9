"""How names and texts out of files and arguments are told: no markup, no control characters, no lone surrogates, no end."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

NAME, LINE = 200, 1200
"""Characters of a name, and of a message."""
LISTED = 100
"""Lines of a list below a message."""
_values = reprlib.Repr()
_values.maxstring = _values.maxother = 60


def printable(text: str) -> str:
    """The text with all that is not printable as an escape; ends of lines and tabs stay."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_name(value: object) -> bool:
    """Whether a value out of a file may stand for a name that is printed as it is."""
    return isinstance(value, str) and value.isprintable() and len(value) <= NAME


def one_line(text: str | os.PathLike[str], most: int = LINE) -> str:
    """A message or path: on one line, printable, its middle left out where it is long."""
    text = os.fspath(text)
    if len(text) > most:
        text = f"{text[: most * 3 // 4]} ... {text[-most // 4 :]}"
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(text: str) -> str:
    """A name or text out of a file as it may stand in a message."""
    return one_line(text, NAME)


def shown_value(value: object) -> str:
    """A value out of a file as it may stand in a message: texts in quotes, the first members of lists and tables."""
    return one_line(_values.repr(value), NAME)


def listed(lines: Sequence[str]) -> str:
    """Lines below a message: the first of them, and how many more there are. They may name what is in files."""
    more = [f"... {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*map(shown, lines[:LISTED]), *more])


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def cell(text: str) -> str:
    """A text for cells, titles and bars, which are markup."""
    return escape(one_line(text))


def log(console: Console, text: str) -> None:
    """Prints it as it is."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
