"""What is known of a public checkpoint beyond the weight table, as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Rule:
    """Whatever matches `pattern` (a regex, as a whole) may be left out. reason: why, for the report."""

    pattern: str
    reason: str


def first_rule(rules: Iterable[Rule], name: str) -> Rule | None:
    """The first rule that matches."""
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class Published:
    """One kind of public checkpoint that a system's weights come from.

    name: what its users call it. mark: a regex of tensor names; every copy holds one, and no kind that is asked later does.
    renames: (regex, replacement) from its names to those of the weight table, the first that matches as a whole.
    ignored: names of it that the system does not want. fresh: names of the table that it does not hold and that start anew.
    rows: {table name: count}, a table of which the first rows are taken where it has more.
    sizes: {config field: (table name, axis)}, fields that follow its shapes. file: what to give on the command line.
    """

    name: str
    mark: str
    file: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Rule, ...] = ()
    fresh: tuple[Rule, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()
    sizes: tuple[tuple[str, tuple[str, int]], ...] = ()

    def is_in(self, names: Iterable[str]) -> bool:
        """Whether these tensor names are of a checkpoint of this kind."""
        return any(re.fullmatch(self.mark, name) for name in names)

    def rename(self, name: str) -> str:
        """The weight table's name of one of its tensors."""
        for pattern, replacement in self.renames:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name
