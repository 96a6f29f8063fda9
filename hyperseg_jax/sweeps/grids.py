"""Sets of trials as lists of {config field: value}, and the three ways to combine them. Values stay the text that was given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hyperseg_jax.errors import UserError

Grid = list[dict[str, str]]


def values(text: str) -> Grid:
    """One field and its values: "a=1,2" -> [{a: 1}, {a: 2}]. Commas inside brackets and quotes do not separate."""
    field, equals, rest = text.partition("=")
    given = _split(rest)
    if not (field and equals and all(given)):
        raise UserError(f"{text}: give a field and its values, as in optimizer.learning_rate=1e-5,4e-5")
    return [{field: value} for value in given]


def prod(*grids: Grid) -> Grid:
    """Every member of each with every member of the others; the last one varies fastest."""
    return [_merged(members) for members in itertools.product(*grids)]


def zipped(*grids: Grid) -> Grid:
    """The first member of each together, then the second, and so on. UserError unless all are equally long."""
    if len({len(grid) for grid in grids}) > 1:
        told = ", ".join(f"{len(grid)} of {'+'.join(grid[0])}" for grid in grids)
        raise UserError(f"--zip: takes as many values of each field ({told})")
    return [_merged(members) for members in zip(*grids, strict=True)]


def chain(*grids: Grid) -> Grid:
    """The members of the first, then those of the second, and so on; what comes again is left out."""
    kept: Grid = []
    for member in itertools.chain(*grids):
        if member not in kept:
            kept.append(member)
    return kept


def from_options(options: Sequence[tuple[str, Sequence[str]]]) -> Grid:
    """The options of a command line in their order: a chain of products.

    ("--grid", ["a=1,2", ...]) and ("--zip", ["a=1,2", "b=3,4"]) are factors of a product; ("--chain", []) begins the next one.
    """
    products: list[list[Grid]] = [[]]
    for option, texts in options:
        if option == "--chain":
            products.append([])
        else:
            products[-1].append((zipped if option == "--zip" else prod)(*map(values, texts)))
    if not all(products):
        raise UserError("give fields to vary, as in --grid optimizer.learning_rate=1e-5,4e-5; --chain stands between two sets")
    return chain(*(prod(*factors) for factors in products))


def _merged(members: Sequence[dict[str, str]]) -> dict[str, str]:
    fields = [field for member in members for field in member]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice:
        raise UserError(f"{twice}: varied twice in one set of trials; name it once, or begin another set with --chain")
    return {field: value for member in members for field, value in member.items()}


def _split(text: str) -> list[str]:
    """At commas that stand outside brackets and quotes."""
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
