"""Public source checkpoints, and the parts of a system that other libraries can load, as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from hyperseg_jax.tables.table import Table


@dataclasses.dataclass(frozen=True)
class Rule:
    """Names that fully match the regex `pattern` may be omitted. reason: why, for the report."""

    pattern: str
    reason: str


def first_rule(rules: Iterable[Rule], name: str) -> Rule | None:
    """Returns the first rule that matches a name, or None."""
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class SourceCheckpoint:
    """A kind of public checkpoint that weights of a system are imported from.

    name: its common name. mark: a regex of tensor names that identifies it; a tensor of every copy matches, and no tensor of
    a kind that is listed later. file: the argument for the command line.
    renames: (regex, replacement) from its names to names of the weight table; the first full match is used.
    ignored: its names that the system does not use. initialized: names of the weight table that it lacks; their parameters are
    randomly initialized.
    rows: {table name: count}; a larger tensor is truncated to its first rows.
    sizes: {config field: (table name, axis)}; config fields that are set from its shapes.
    """

    name: str
    mark: str
    file: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Rule, ...] = ()
    initialized: tuple[Rule, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()
    sizes: tuple[tuple[str, tuple[str, int]], ...] = ()

    def is_in(self, names: Iterable[str]) -> bool:
        """Returns whether tensor names belong to a checkpoint of this kind."""
        return any(re.fullmatch(self.mark, name) for name in names)

    def rename(self, name: str) -> str:
        """Returns the weight table's name of a tensor."""
        for pattern, replacement in self.renames:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a system that one class of transformers implements exactly.

    prefixes: the prefixes of its flax paths ("llm/", "language_head/").
    table(config): its weight table, with flax paths of the full system, without adapters.
    config_json(config): the content of config.json for from_pretrained.
    reads_text: whether the tokenizer is exported with it.
    """

    prefixes: tuple[str, ...]
    table: Callable[[Any], Table]
    config_json: Callable[[Any], dict[str, Any]]
    reads_text: bool = False


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The low-rank adapters of a system as a PEFT folder. table: the weight table with PEFT names. targets: PEFT's
    target_modules, a regex of full module names."""

    table: Table
    targets: str
