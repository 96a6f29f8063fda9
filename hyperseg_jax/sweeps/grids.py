"""Grids: lists of trials as {config field: value}, and three ways to combine them. Values are strings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hyperseg_jax.errors import UserError

Grid = list[dict[str, str]]


def parse_values(text: str) -> Grid:
    """Parses a field and its values: "a=1,2" -> [{a: 1}, {a: 2}]. Commas inside brackets and quotes do not separate values."""
    field, equals, rest = text.partition("=")
    parts = _split_at_commas(rest)
    if not (field and equals and all(parts)):
        raise UserError(f"{text}: give a field and its values, as in optimizer.learning_rate=1e-5,4e-5")
    return [{field: value} for value in parts]


def product(*grids: Grid) -> Grid:
    """Returns the Cartesian product of grids; the last one varies fastest."""
    return [_merge_members(members) for members in itertools.product(*grids)]


def zip_grids(*grids: Grid) -> Grid:
    """Combines the first trials of all grids, then the second ones, and so on. Raises UserError unless all grids have the same
    length."""
    if len({len(grid) for grid in grids}) > 1:
        lengths = ", ".join(f"{len(grid)} of {'+'.join(grid[0])}" for grid in grids)
        raise UserError(f"--zip: fields have different numbers of values ({lengths}); give the same number of values for each")
    return [_merge_members(members) for members in zip(*grids, strict=True)]


def chain_grids(*grids: Grid) -> Grid:
    """Concatenates grids, without duplicate trials."""
    result: Grid = []
    for member in itertools.chain(*grids):
        if member not in result:
            result.append(member)
    return result


def from_options(options: Sequence[tuple[str, Sequence[str]]]) -> Grid:
    """Builds the grid of the command-line options.

    options: in their order. ("--grid", ["a=1,2", ...]) and ("--zip", ["a=1,2", "b=3,4"]) are factors of a product;
    ("--chain", []) starts another product. The result is the concatenation of all products.
    """
    products: list[list[Grid]] = [[]]
    for option, texts in options:
        if option == "--chain":
            products.append([])
        else:
            products[-1].append((zip_grids if option == "--zip" else product)(*map(parse_values, texts)))
    if not all(products):
        raise UserError("give fields to vary, as in --grid optimizer.learning_rate=1e-5,4e-5; --chain separates two grids")
    return chain_grids(*(product(*factors) for factors in products))


def _merge_members(members: Sequence[dict[str, str]]) -> dict[str, str]:
    """Returns the trial with the fields of all members. Raises UserError if two members have the same field."""
    fields = [field for member in members for field in member]
    duplicate = next((field for field in fields if fields.count(field) > 1), None)
    if duplicate:
        raise UserError(f"{duplicate}: appears twice in one grid; name it once, or start another grid with --chain")
    return {field: value for member in members for field, value in member.items()}


def _split_at_commas(text: str) -> list[str]:
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
