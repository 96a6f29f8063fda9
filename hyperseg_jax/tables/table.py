"""Weight tables: rows of (flax paths, PyTorch names, operator), applied both ways and checked for completeness."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables.operators import Copies, Operator, Stack
from hyperseg_jax.untrusted.printing import listed


def _as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


class Piece(NamedTuple):
    """A part of a row that is converted on its own: the flax leaves at `indices` of their leading (layer) axes, and the
    corresponding PyTorch names."""

    paths: tuple[str, ...]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    operator: Operator


@dataclasses.dataclass(frozen=True, init=False)
class Row:
    """Corresponding parameters: flax leaves at `paths` ("mlp/up/kernel") and PyTorch tensors `names` ("mlp.fc1.weight"),
    converted by the operator. paths and names: one string or several."""

    paths: tuple[str, ...]
    names: tuple[str, ...]
    operator: Operator

    def __init__(self, paths: str | tuple[str, ...], names: str | tuple[str, ...], operator: Operator) -> None:
        object.__setattr__(self, "paths", _as_tuple(paths))
        object.__setattr__(self, "names", _as_tuple(names))
        object.__setattr__(self, "operator", operator)

    def without_absent_copies(self, names: Container[str]) -> Row:
        """Returns the row without those of several equal tensors (Copies) that are not in `names`, if one is."""
        present = tuple(name for name in self.names if name in names)
        return Row(self.paths, present, self.operator) if present and isinstance(self.operator, Copies) else self

    def pieces(self) -> Iterator[Piece]:
        """Yields every part that can be converted independently: each layer of a stack."""
        pending = [Piece(self.paths, (), self.names, self.operator)]
        while pending:
            piece = pending.pop()
            if not isinstance(piece.operator, Stack):
                yield piece
                continue
            inner, count = piece.operator.inner, piece.operator.count
            width = len(piece.names) // count
            pending += [
                Piece(self.paths, (*piece.indices, i), piece.names[i * width : (i + 1) * width], inner)
                for i in reversed(range(count))
            ]


class Table:
    """An ordered set of rows; tables compose with +, with_prefix() and stacked()."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = tuple(rows)
        for kind, names in (
            ("flax path", [p for r in self.rows for p in r.paths]),
            ("PyTorch name", [n for r in self.rows for n in r.names]),
        ):
            duplicates = sorted({x for x in names if names.count(x) > 1}) if len(set(names)) != len(names) else []
            if duplicates:
                raise ValueError(f"duplicate {kind} in a weight table: {duplicates}")

    def __add__(self, other: Table) -> Table:
        return Table(self.rows + other.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def join(tables: Iterable[Table]) -> Table:
        """Concatenates tables."""
        return Table(row for table in tables for row in table)

    def with_prefix(self, path: str = "", name: str = "") -> Table:
        """Returns the table with prefixes of all flax paths and PyTorch names; they include the separator ("swin/",
        "model.vision_tower_mask.")."""
        return Table(Row(tuple(path + p for p in r.paths), tuple(name + n for n in r.names), r.operator) for r in self.rows)

    def stacked(self, count: int, start: int = 0, step: int = 1) -> Table:
        """Converts the table of one layer, with "{i}" in its PyTorch names, to the table of `count` layers scanned as one. i =
        start + step * k for layer k."""
        return Table(
            Row(
                r.paths,
                tuple(n.replace("{i}", str(start + step * k)) for k in range(count) for n in r.names),
                Stack(r.operator, count),
            )
            for r in self.rows
        )

    def numbered(self, i: int) -> Table:
        """Converts the table of one layer, with "{i}" in its PyTorch names, to that of layer i."""
        return Table(Row(r.paths, tuple(n.replace("{i}", str(i)) for n in r.names), r.operator) for r in self.rows)

    def to_flax(
        self,
        tensors: Mapping[str, np.ndarray],
        expected: Any = None,
        *,
        ignore: Iterable[str] = (),
        optional: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Converts PyTorch tensors to nested flax parameters.

        expected: nested abstract parameters (jax.eval_shape of init); names and shapes must match exactly.
        ignore: regexes of PyTorch names that may be unused. optional: regexes of flax paths that may stay unfilled.
        Raises UserError that lists all missing, unexpected and mismatched entries.
        """
        flat: dict[str, np.ndarray] = {}
        known = {name for row in self.rows for name in row.names}
        optional, ignore = tuple(optional), tuple(ignore)
        missing, used = [], set()
        for row in (row.without_absent_copies(tensors) for row in self.rows):
            absent_names = [name for name in row.names if name not in tensors]
            if absent_names:
                if any(not _matches_any(path, optional) for path in row.paths):
                    missing += absent_names
                continue
            used |= set(row.names)
            flat.update(zip(row.paths, row.operator.to_flax(tuple(np.asarray(tensors[n]) for n in row.names)), strict=True))
        unused = [name for name in tensors if name not in known and not _matches_any(name, ignore)]
        problems = [f"missing in the source: {name}" for name in missing]
        problems += [f"unexpected in the source: {name}" for name in unused]
        if expected is not None:
            expected_leaves = flatten(expected)
            problems += [
                f"not filled by the table: {path}"
                for path in expected_leaves
                if path not in flat and not _matches_any(path, optional) and not any(path in row.paths for row in self.rows)
            ]
            problems += [f"unknown to the model: {path}" for path in flat if path not in expected_leaves]
            problems += [
                f"{path}: shape {flat[path].shape}, the model has {tuple(expected_leaves[path].shape)}"
                for path in flat
                if path in expected_leaves and tuple(expected_leaves[path].shape) != flat[path].shape
            ]
        if problems:
            raise UserError("weights do not fit the model:" + listed(problems))
        return unflatten(flat)

    def to_torch(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Converts nested flax parameters to PyTorch tensors. Raises UserError that lists missing and unexpected entries."""
        flat = flatten(params)
        paths = {path for row in self.rows for path in row.paths}
        problems = [f"missing in the parameters: {path}" for path in paths if path not in flat]
        problems += [f"no PyTorch name for: {path}" for path in flat if path not in paths]
        if problems:
            raise UserError("parameters do not fit the weight table:" + listed(sorted(problems)))
        tensors: dict[str, np.ndarray] = {}
        for row in self.rows:
            leaves = tuple(np.asarray(flat[path]) for path in row.paths)
            tensors.update(zip(row.names, row.operator.to_torch(leaves), strict=True))
        return tensors


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries: {"a": {"b": x}} -> {"a/b": x}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, path + "/") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nests flat paths: {"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
