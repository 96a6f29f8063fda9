"""Numbers on the command line, in ASCII: int() and float() also accept underscores (1_0) and the digits of other scripts."""

from __future__ import annotations

import argparse
import functools
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


class Parser(argparse.ArgumentParser):
    """A parser whose arguments of type int or float take such numbers only; the parsers of its subcommands do so as well."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for kind in (int, float):
            self.register("type", kind, functools.partial(parse_number, kind))


def parse_number(kind: type[Number], text: str) -> Number:
    """Returns the int or float of a text; a float may be infinite or NaN. Raises ValueError."""
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!a} is not a number")
    return kind(text)
