"""The base class of metrics: rows of sums by name, which merge over prompts and hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from hyperseg_jax.errors import UserError

RULES = ("official", "released")
"""official: the rule of the benchmark. released: the behaviour of the published tool where it deviates from this rule."""
LARGEST = 2.0**53
"""Larger sums are not exact."""


def check_rules(rules: str) -> str:
    """Returns the name of a rule set. Raises ValueError if it is unknown."""
    if rules not in RULES:
        raise ValueError(f"rules={rules!r}: choose one of {', '.join(RULES)}")
    return rules


def check_masks(**masks: Any) -> None:
    """Checks that masks are arrays of bool; None is allowed for `ignore`, `void` and `crowds`. Raises UserError: other numbers
    would be compared by their bits."""
    for name, mask in masks.items():
        if mask is None and name in ("ignore", "void", "crowds"):
            continue
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            what = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise UserError(f"{name} is {what}; give masks as bool arrays, such as mask > 0.5")


def check_names(name: str, values: Any) -> None:
    """Checks that values are a list of texts. Raises UserError."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        raise UserError(f"{name} is {type(values).__name__}; give a list of texts")
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{name} has members that are no texts; give a list of texts")


def is_list(value: Any, *kinds: type) -> bool:
    """Returns whether a JSON value is a list in which each member has one of these types."""
    return type(value) is list and all(type(member) in kinds for member in value)


class Sums:
    """An accumulator: rows of float64 numbers by name (of a group or class).

    options: arguments of __init__, saved in the state. columns: numbers per row. optional_scores: scores that compute()
    returns only if prompts of their kind were seen. signed: columns that may be negative. fractional: columns that are not
    counts. bounds: pairs (a, b) of columns with |a| <= b, such as a sum of IoUs and the number of prompts. count_column: a
    column that is at least 1 in every row. update_columns: columns whose sum over all rows is the number of calls of update;
    () if none are.
    """

    columns: int
    optional_scores: tuple[str, ...] = ()
    signed: tuple[int, ...] = ()
    fractional: tuple[int, ...] = ()
    bounds: tuple[tuple[int, int], ...] = ()
    count_column: int | None = None
    update_columns: tuple[int, ...] = ()

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._sums: dict[str, np.ndarray] = {}

    def _add(self, name: str, *row: float) -> None:
        self._sums[name] = self._sums.get(name, 0) + np.array(row, np.float64)

    def _total(self) -> np.ndarray:
        return sum(self._sums.values(), np.zeros(self.columns))

    @property
    def updates(self) -> int | None:
        """The number of calls of update, with those of merged accumulators; None if the sums do not contain it."""
        return int(self._total()[list(self.update_columns)].sum()) if self.update_columns else None

    def compute(self) -> dict[str, float]:
        """Returns the scores by name. Subclasses implement it."""
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """Returns every score that compute() can return, without those of groups ("name/<group>")."""
        return tuple(dict.fromkeys((*type(self)(**self._options).compute(), *self.optional_scores)))

    def merge(self, other: Self) -> None:
        """Adds the sums of another accumulator, for example of another host. Raises ValueError if its options differ."""
        if other._options != self._options:
            raise ValueError(f"scores with options {other._options} cannot be merged into scores with {self._options}")
        for name, row in other._sums.items():
            self._add(name, *row)

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON-compatible values, without rounding."""
        return {"options": self._options, "sums": {name: row.tolist() for name, row in self._sums.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restores an accumulator. Raises ValueError, TypeError or KeyError for an invalid state."""
        restored = cls(**state["options"])
        for name, row in state["sums"].items():
            numbers = np.array(row, np.float64) if is_list(row, int, float) else np.zeros(0)
            if numbers.shape != (restored.columns,) or not restored._is_valid(numbers):
                raise ValueError(f"the sums of {name!r} are not {restored.columns} valid numbers")
            restored._sums[name] = numbers
        return restored

    def _is_valid(self, row: np.ndarray) -> bool:
        """Returns whether a row is possible as the result of updates."""
        return bool(
            (np.abs(row) < LARGEST).all()
            and (np.delete(row, self.signed) >= 0).all()
            and (np.delete(row, self.fractional) % 1 == 0).all()
            and row.any()
            and all(abs(row[lower]) <= row[upper] for lower, upper in self.bounds)
            and (self.count_column is None or row[self.count_column] >= 1)
        )
