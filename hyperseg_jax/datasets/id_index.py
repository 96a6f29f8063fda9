"""Records by their ids. An id that two records share is a problem."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import shown_value


class IdIndex:
    """The index of the first record with each id, in the order of the file.

    name: the field of the ids. where: what the list is called in messages. strict: a record without an id is a UserError; else
    it is left out, and whoever reads it complains.
    """

    def __init__(self, rows: Sequence[Any], name: str, where: str, *, strict: bool = True) -> None:
        self._name, self._where = name, where
        self._first: dict[int | str, int] = {}
        self._again: dict[int | str, int] = {}
        for k, row in enumerate(rows):
            with contextlib.nullcontext() if strict else contextlib.suppress(UserError):
                number = files.record_id(row, name, f"{where}#{k}")
                if self._first.setdefault(number, k) != k:
                    self._again.setdefault(number, k)

    def __contains__(self, number: int | str) -> bool:
        return number in self._first

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._first)

    def __getitem__(self, number: int | str) -> int:
        """The index of the first record with that id. A problem where another record has the same id."""
        first = self._first[number]
        if number in self._again:
            what = f"{self._where}#{first}: its {self._name} {shown_value(number)}"
            report_problem("bad record", f"{what} is that of #{self._again[number]} too; correct one of them")
        return first

    def check(self) -> None:
        """A problem for each id that two records share, for lists that all records depend on."""
        for number in self._again:
            self[number]


def index_categories(rows: Sequence[Any], where: str) -> dict[int, int]:
    """The index of each category by its id. A problem where two share one."""
    numbers = [files.integer(row, "id", f"{where}#{k}") for k, row in enumerate(rows)]
    IdIndex(rows, "id", where).check()
    return {number: k for k, number in enumerate(numbers)}
