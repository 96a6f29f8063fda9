"""How names and texts out of files and arguments are printed: no markup, no control characters, no lone surrogates."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def printable(text: str) -> str:
    """The text with all that is not printable as an escape; ends of lines and tabs stay."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def say(console: Console, text: str) -> None:
    """Prints it as it is."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def cell(text: str) -> str:
    """The same on one line, for cells, titles and bars, which are markup."""
    return escape(printable(text).replace("\n", "\\n"))
