"""Public source checkpoints, and the parts of a system that other libraries can load, as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hyperseg_jax.tables.table import Table


@dataclasses.dataclass(frozen=True)
class Rule:
    """Names that fully match the regex `pattern` may be missing or unused. reason: why, for the report."""

    pattern: str
    reason: str


def find_first_rule(rules: Iterable[Rule], name: str) -> Rule | None:
    """Returns the first rule that matches a name, or None."""
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class PublishedField:
    """A config field that changes the results but no weight. Exports record it, imports restore it, and a model is neither
    evaluated nor, unless it may change, trained further with another value.

    field: its name in the config, with dots. values: those that the authors' code implements; configs without the field have
    the first. meaning: what that code does with weights that were trained with any other value, for the report. may_change:
    whether training for one value may start from weights of another. details: further fields with their defaults, which have a
    meaning with other values only; they are recorded and restored with those.
    """

    field: str
    values: tuple[str | int | float, ...]
    meaning: str = ""
    may_change: bool = False
    details: tuple[tuple[str, str | int | bool], ...] = ()


@dataclasses.dataclass(frozen=True)
class FileName:
    """What the name of a checkpoint's file says about a config field that its tensors do not show.

    pattern: a regex for the file name, of small or capital letters. field: as in "model.PART.FIELD". values: the values that
    fit; () if the name has had several meanings. advice: what the user can do then.
    """

    pattern: str
    field: str
    values: tuple[str, ...]
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class SourceCheckpoint:
    """A kind of public checkpoint from which weights of a system are imported.

    name: its common name. mark: a regex for tensor names that identifies it: in every checkpoint of this kind a tensor matches,
    and in kinds that are listed later none does. file: what the user gives on the command line, for messages. renames: (regex,
    replacement) from its tensor names to names of the weight table; the first full match is used. ignored: its tensors that the
    system does not use. initialized: names of the weight table that it does not contain; these parameters are initialized
    randomly, unless another source has some of the names that a rule describes. rows: {table name: count}; a larger tensor is
    truncated to its first rows. added_rows: {table name: count}; rows of zeros that are appended to a tensor. sizes: {config
    field: (table name, axis)}; config fields that are set from the shapes of its tensors. file_names: what the names of its
    files say; the first match counts. check_settings(content of its config.json, config): raises UserError if it is that of
    another model, which the tensors would not show; the message follows the file name. check_shapes({table name: shape} of its
    tensors, config): raises UserError if they are those of a known other model, in place of the list of all tensors that do not
    fit.
    """

    name: str
    mark: str
    file: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Rule, ...] = ()
    initialized: tuple[Rule, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()
    added_rows: tuple[tuple[str, int], ...] = ()
    sizes: tuple[tuple[str, tuple[str, int]], ...] = ()
    file_names: tuple[FileName, ...] = ()
    check_settings: Callable[[Mapping[str, Any], Any], None] | None = None
    check_shapes: Callable[[Mapping[str, tuple[int, ...]], Any], None] | None = None

    def is_in(self, names: Iterable[str]) -> bool:
        """Returns whether these tensor names are those of a checkpoint of this kind."""
        return any(re.fullmatch(self.mark, name) for name in names)

    def rename(self, name: str) -> str:
        """Returns the name in the weight table of a tensor of the checkpoint."""
        for pattern, replacement in self.renames:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a system that equals one class of the transformers library and can be loaded with it.

    prefixes: the prefixes of its flax paths ("llm/", "language_head/"). table(config): its weight table, with flax paths of the
    full system, without adapters. config_json(config): the content of config.json for from_pretrained. reads_text: whether the
    tokenizer is exported with it.
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
