"""What an import did, for a person (a table) and for a program (JSON)."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from hyperseg_jax.untrusted.printing import cell


@dataclasses.dataclass
class ImportReport:
    """out: the model folder. sources: {kind: path}. loaded: {path of ours: {"shape", "dtype"}}. ignored: {reason: names}.
    fresh: {reason: paths}. config: {field: [before, after]}, fields that followed the checkpoint."""

    out: pathlib.Path
    sources: dict[str, str]
    loaded: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    ignored: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    fresh: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    config: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    def ignore(self, kind: str, name: str, reason: str) -> None:
        self.ignored.setdefault(f"{kind}: {reason}", []).append(name)

    def start_anew(self, paths: Iterable[str], reason: str) -> None:
        self.fresh.setdefault(reason, []).extend(paths)

    def save(self, path: pathlib.Path) -> None:
        facts = dataclasses.asdict(self)
        facts.pop("out")
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """Loaded by part of the model, then what was ignored and what starts anew, by rule."""
        parts: dict[str, list[Any]] = collections.defaultdict(lambda: [0, 0, set()])
        for path, facts in self.loaded.items():
            entry = parts[path.split("/")[0]]
            entry[0] += 1
            entry[1] += math.prod(facts["shape"])
            entry[2].add(facts["dtype"])
        given = ", ".join(f"{kind}: {path}" for kind, path in self.sources.items())
        table = Table(title=cell(given), title_justify="left")
        for name in ("", "what", "arrays", "parameters", "type"):
            table.add_column(name, justify="right" if name in ("arrays", "parameters") else "left")
        for part, (count, size, types) in parts.items():
            table.add_row("loaded", part, str(count), f"{size:,}", " ".join(sorted(types)))
        for title, rules in (("ignored", self.ignored), ("fresh", self.fresh)):
            for reason, names in rules.items():
                table.add_row(title, reason, str(len(names)))
        for field, (before, after) in self.config.items():
            table.add_row("config", f"{field}: {before} -> {after}, as the checkpoint")
        return table
