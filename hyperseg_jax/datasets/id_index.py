"""Looks up records by id. Duplicate ids are reported as problems."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import note_problem, report_problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped_value


class IdIndex:
    """Maps each id to the index of the first record with that id, in file order.

    name: the id field. where: the location of the list, for messages, or a function that returns the location of a record.
    strict: True raises UserError for a record without an id; False skips it, and the error is raised when the record is read.
    The ids 1 and "1" are the same (`fields.id_field`), because examples are named by the text of their id.
    """

    def __init__(self, rows: Sequence[Any], name: str, where: str | Callable[[int], str], *, strict: bool = True) -> None:
        self._name, self._where = name, where
        self._first: dict[int | str, int] = {}
        self._duplicates: dict[int | str, int] = {}
        for k, row in enumerate(rows):
            with contextlib.nullcontext() if strict else contextlib.suppress(UserError):
                number = fields.id_field(row, name, self._location(k))
                if self._first.setdefault(number, k) != k:
                    self._duplicates.setdefault(number, k)

    def _location(self, k: int) -> str:
        return self._where(k) if callable(self._where) else f"{self._where}#{k}"

    def __contains__(self, number: int | str) -> bool:
        return number in self._first

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._first)

    def __getitem__(self, number: int | str) -> int:
        """Returns the index of the first record with that id. Reports a problem if another record has the same id."""
        first = self._first[number]
        if number in self._duplicates:
            what, other = f"{self._location(first)}: {self._name} {escaped_value(number)}", self._duplicates[number]
            other_place = self._where(other) if callable(self._where) else f"#{other}"
            report_problem("bad record", f"{what} is also the id of {other_place}; correct one of them")
        return first

    def duplicates_only(self) -> IdIndex:
        """Forgets the other ids, which saves memory where records are only checked. Returns the index itself."""
        self._first = {number: self._first[number] for number in self._duplicates}
        return self

    def check(self, row: Any, where: str) -> None:
        """Reports a problem if another record has the same id as this one, or if its id is invalid; none if it has no id.
        where: the location of the record, for messages."""
        if isinstance(row, dict) and self._name in row and (number := fields.id_field(row, self._name, where)) in self:
            self[number]

    def report_duplicates(self) -> None:
        """Reports a problem for each duplicate id; for lists that all records depend on."""
        for number in self._duplicates:
            self[number]


def check_image(annotation: Any, image_id: int | str, where: str) -> None:
    """Reports a problem if an annotation has the image_id of another image; none if it has none. image_id: that of the image
    that it is used for. where: the location of the annotation, for messages."""
    if isinstance(annotation, dict) and "image_id" in annotation:
        other = fields.id_field(annotation, "image_id", where)
        if str(other) != str(image_id):
            why = f"is about the image {escaped_value(other)}, but used for the image {escaped_value(image_id)}"
            report_problem("bad record", f"{where}: {why}; correct its image_id, or use files of one release")


def note_duplicates(texts: Sequence[str], where: str, what: str) -> None:
    """During a check, records a problem if a text is listed twice. where: the location of the list, what: its texts, for
    messages."""
    if twice := [text for text, count in collections.Counter(texts).items() if count > 1]:
        note_problem("bad record", f"{where}: two {what} are {escaped_value(twice[0])}; change one of them")


def read_categories(content: Any, path: object) -> dict[int, str]:
    """Returns the names of the categories of a file by their ids, in its order. Reports a problem for duplicate ids, and notes
    duplicate names."""
    rows, where = fields.list_field(content, "categories", str(path)), f"{path} categories"
    numbers = [fields.integer_field(row, "id", f"{where}#{k}") for k, row in enumerate(rows)]
    names = [fields.name_field(row, "name", f"{where}#{k}") for k, row in enumerate(rows)]
    IdIndex(rows, "id", where).report_duplicates()
    note_duplicates(names, where, "names")
    return dict(zip(numbers, names, strict=True))
