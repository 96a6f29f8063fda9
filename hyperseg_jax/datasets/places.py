"""Where the numbers of a list of records stand; one that stands twice tells no records apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.problems import complain
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import shown_value


class Places:
    """The place of the first record of each number, in the order of the file.

    name: the field of the numbers. where: what the list is called in messages. strict: a record without a number is a
    UserError; else it is left out, and told by whoever reads it.
    """

    def __init__(self, rows: Sequence[Any], name: str, where: str, *, strict: bool = True) -> None:
        self._name, self._where = name, where
        self._first: dict[int | str, int] = {}
        self._again: dict[int | str, int] = {}
        for k, row in enumerate(rows):
            with contextlib.nullcontext() if strict else contextlib.suppress(UserError):
                number = files.identity(row, name, f"{where}#{k}")
                if self._first.setdefault(number, k) != k:
                    self._again.setdefault(number, k)

    def __contains__(self, number: int | str) -> bool:
        return number in self._first

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._first)

    def __getitem__(self, number: int | str) -> int:
        """The place of the first record of that number. A problem where another one has it too."""
        first = self._first[number]
        if number in self._again:
            what = f"{self._where}#{first}: its {self._name} {shown_value(number)}"
            complain("bad record", f"{what} is that of #{self._again[number]} too; correct one of them")
        return first

    def check(self) -> None:
        """A problem for each number that stands twice, for lists that all records depend on."""
        for number in self._again:
            self[number]


def categories(rows: Sequence[Any], where: str) -> dict[int, int]:
    """The place of each number of a list of categories. A problem where one stands twice."""
    numbers = [files.number(row, "id", f"{where}#{k}") for k, row in enumerate(rows)]
    Places(rows, "id", where).check()
    return {number: k for k, number in enumerate(numbers)}
