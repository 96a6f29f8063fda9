"""What all scores are computed from: rows of sums by name, which add up over prompts and over hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

RULES = ("official", "released")
"""official: the benchmark's own rule. released: what the published tool does where it departs from it."""


def check_rules(rules: str) -> str:
    """The name of a rule set, or ValueError."""
    if rules not in RULES:
        raise ValueError(f"rules={rules!r}: choose one of {', '.join(RULES)}")
    return rules


class Sums:
    """An accumulator: rows of numbers by name (a group, a class). float64, so counts stay exact.

    options: what __init__ was told; it travels with the state. columns: the numbers of a row. sometimes: scores that compute()
    gives only where prompts of their kind were seen. signed: whether numbers may be negative. within: pairs of columns whose
    first is never the larger one, as a sum of IoUs is at most the number of prompts. counted: the column of a number that is at
    least 1 in every row.
    """

    columns: ClassVar[int]
    sometimes: ClassVar[tuple[str, ...]] = ()
    signed: ClassVar[bool] = False
    within: ClassVar[tuple[tuple[int, int], ...]] = ()
    counted: ClassVar[int | None] = None

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._sums: dict[str, np.ndarray] = {}

    def _add(self, name: str, *row: float) -> None:
        self._sums[name] = self._sums.get(name, 0) + np.array(row, np.float64)

    def _total(self) -> np.ndarray:
        return sum(self._sums.values(), np.zeros(self.columns))

    def compute(self) -> dict[str, float]:
        """The scores by name. Each kind of accumulator has its own."""
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """Every score that compute() can give; those of groups ("name/<group>") begin with one of them."""
        return tuple(dict.fromkeys((*type(self)(**self._options).compute(), *self.sometimes)))

    def merge(self, other: Self) -> None:
        """Adds what another accumulator (of another host, say) has seen. ValueError where it counts by another rule."""
        if other._options != self._options:
            raise ValueError(f"scores by {other._options} cannot be added to scores by {self._options}")
        for name, row in other._sums.items():
            self._add(name, *row)

    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it; nothing is rounded."""
        return {"options": self._options, "sums": {name: row.tolist() for name, row in self._sums.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The accumulator that gave this state. ValueError, TypeError, KeyError where none did."""
        made = cls(**state["options"])
        made._sums = {name: np.array(row, np.float64) for name, row in state["sums"].items()}
        for name, row in made._sums.items():
            if row.shape != (cls.columns,) or not cls._countable(row):
                raise ValueError(f"the sums of {name!r} are not {cls.columns} numbers that a run can have counted")
        return made

    @classmethod
    def _countable(cls, row: np.ndarray) -> bool:
        """Whether a run can have counted a row."""
        return bool(
            np.isfinite(row).all()
            and (cls.signed or (row >= 0).all())
            and row.any()
            and all(abs(row[share]) <= row[whole] for share, whole in cls.within)
            and (cls.counted is None or row[cls.counted] >= 1)
        )
