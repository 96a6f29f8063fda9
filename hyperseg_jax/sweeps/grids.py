"""Grids of trials as lists of {config field: value}, with three ways to combine them. Values stay text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hyperseg_jax.errors import UserError

Grid = list[dict[str, str]]


def values(text: str) -> Grid:
    """Parses a field and its values: "a=1,2" -> [{a: 1}, {a: 2}]. Commas inside brackets and quotes do not separate values."""
    field, equals, rest = text.partition("=")
    parts = _split(rest)
    if not (field and equals and all(parts)):
        raise UserError(f"{text}: give a field and its values, as in optimizer.learning_rate=1e-5,4e-5")
    return [{field: value} for value in parts]


def prod(*grids: Grid) -> Grid:
    """Returns the Cartesian product of grids; the last one varies fastest."""
    return [_merged(members) for members in itertools.product(*grids)]


def zipped(*grids: Grid) -> Grid:
    """Combines the first members of all grids, then the second ones, and so on. Raises UserError unless all have equal
    length."""
    if len({len(grid) for grid in grids}) > 1:
        lengths = ", ".join(f"{len(grid)} of {'+'.join(grid[0])}" for grid in grids)
        raise UserError(f"--zip: all fields need the same number of values ({lengths})")
    return [_merged(members) for members in zip(*grids, strict=True)]


def chain(*grids: Grid) -> Grid:
    """Concatenates grids, without duplicates."""
    result: Grid = []
    for member in itertools.chain(*grids):
        if member not in result:
            result.append(member)
    return result


def from_options(options: Sequence[tuple[str, Sequence[str]]]) -> Grid:
    """Builds the grid of the command-line options, in their order: a chain of products.

    ("--grid", ["a=1,2", ...]) and ("--zip", ["a=1,2", "b=3,4"]) are factors of a product; ("--chain", []) starts the next one.
    """
    products: list[list[Grid]] = [[]]
    for option, texts in options:
        if option == "--chain":
            products.append([])
        else:
            products[-1].append((zipped if option == "--zip" else prod)(*map(values, texts)))
    if not all(products):
        raise UserError("give fields to vary, as in --grid optimizer.learning_rate=1e-5,4e-5; --chain separates two grids")
    return chain(*(prod(*factors) for factors in products))


def _merged(members: Sequence[dict[str, str]]) -> dict[str, str]:
    fields = [field for member in members for field in member]
    duplicate = next((field for field in fields if fields.count(field) > 1), None)
    if duplicate:
        raise UserError(f"{duplicate}: appears twice in one grid; name it once, or start another grid with --chain")
    return {field: value for member in members for field, value in member.items()}


def _split(text: str) -> list[str]:
    """Splits at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
