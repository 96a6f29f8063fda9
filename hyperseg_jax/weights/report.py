"""The report of an import, as a table for the terminal and as JSON."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from hyperseg_jax.untrusted.printing import escape_markup, escaped_value


@dataclasses.dataclass
class ImportReport:
    """The report of an import.

    out: the model folder. sources: {checkpoint kind: path}. loaded: {parameter path: {"shape", "dtype"}}. ignored: {reason:
    tensor names}. initialized: {reason: paths of initialized parameters}. config: {field: [before, after]} of
    fields that were set to match the checkpoint. notes: other remarks, one line each.
    """

    out: pathlib.Path
    sources: dict[str, str]
    loaded: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    ignored: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    initialized: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    config: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add_ignored(self, kind: str, name: str, reason: str) -> None:
        """Adds a tensor that was not used. kind: the kind of checkpoint."""
        self.ignored.setdefault(f"{kind}: {reason}", []).append(name)

    def add_initialized(self, paths: Iterable[str], reason: str) -> None:
        self.initialized.setdefault(reason, []).extend(paths)

    def save(self, path: pathlib.Path) -> None:
        fields = dataclasses.asdict(self)
        fields.pop("out")
        path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """Builds a table of the loaded parameters by component, then the ignored tensors and initialized parameters by rule."""
        parts: dict[str, list[Any]] = collections.defaultdict(lambda: [0, 0, set()])
        for path, info in self.loaded.items():
            entry = parts[path.split("/")[0]]
            entry[0] += 1
            entry[1] += math.prod(info["shape"])
            entry[2].add(info["dtype"])
        sources = ", ".join(f"{kind}: {path}" for kind, path in self.sources.items())
        table = Table(title=escape_markup(sources), title_justify="left")
        for name in ("", "what", "arrays", "parameters", "type"):
            table.add_column(name, justify="right" if name in ("arrays", "parameters") else "left")
        for part, (count, size, types) in parts.items():
            table.add_row("loaded", part, str(count), f"{size:,}", " ".join(sorted(types)))
        for title, rules in (("ignored", self.ignored), ("initialized", self.initialized)):
            for reason, names in rules.items():
                table.add_row(title, escape_markup(reason), str(len(names)))
        for field, (before, after) in self.config.items():
            change = f"{field}: {escaped_value(before)} -> {escaped_value(after)}"
            table.add_row("config", escape_markup(f"{change}, to match the checkpoint"))
        for note in self.notes:
            table.add_row("note", escape_markup(note))
        return table
