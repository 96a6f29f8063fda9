"""What is known of a public checkpoint beyond the weight table, and what other libraries can hold of a system, as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from hyperseg_jax.tables.table import Table


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


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a system that one class of transformers computes exactly.

    prefixes: of the flax paths that it is made of ("llm/", "language_head/").
    table(config): the weight table; flax paths are those of the whole system. Adapters are not in it.
    config_json(config): what stands in config.json for from_pretrained to open the folder.
    reads_text: whether the tokenizer goes with it.
    """

    prefixes: tuple[str, ...]
    table: Callable[[Any], Table]
    config_json: Callable[[Any], dict[str, Any]]
    reads_text: bool = False


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The low-rank adapters of a system as a PEFT folder. table: their names there. targets: a regex of the names of whole
    modules that have one."""

    table: Table
    targets: str
