"""What lies where: one row a parameter, and what should be split but is not (in presets that split the width of the model)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperseg_jax.parallel.placement import Placement
from hyperseg_jax.tables import flatten

LARGE = 4.0  # MB that a device should not hold whole where parameters are split


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter. megabytes: 1e6 bytes a device. flagged: it should be split and is not."""

    path: str
    shape: tuple[int, ...]
    type: str
    spec: str
    megabytes: float
    flagged: bool


def rows(abstract: Mapping[str, Any], placed: Placement) -> list[Row]:
    """One row for each leaf of nested shapes with shardings."""
    splits = dict(placed.rules)["embed"] is not None
    made = []
    for path, leaf in flatten(abstract).items():
        held = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize / 1e6
        whole = all(axis is None for axis in leaf.sharding.spec)
        made.append(Row(path, leaf.shape, str(leaf.dtype), _spec(leaf.sharding.spec), held, splits and whole and held > LARGE))
    return made


def lines(found: list[Row]) -> list[str]:
    """The rows as text, for files and snapshots."""
    width = max(len(row.path) for row in found)
    return [f"{row.path:{width}}  {_shape(row):>20}  {row.type:8}  {row.megabytes:9.3f} MB  {row.spec}"
            + ("  <- whole on every device" if row.flagged else "") for row in found]  # fmt: skip


def show(found: list[Row], placed: Placement, console: Console) -> None:
    """The table, its total, and the flagged rows once more."""
    sizes = " x ".join(f"{name} {size}" for name, size in placed.mesh.shape.items())
    table = Table("parameter", "shape", "type", "split over", "MB a device", title=f"preset {placed.preset}: {sizes}")
    for row in found:
        style = "bold red" if row.flagged else None
        cells = (row.path, _shape(row), row.type, row.spec, f"{row.megabytes:.3f}")
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print(f"parameters: {sum(row.megabytes for row in found):.1f} MB a device", highlight=False)
    for row in found:
        if row.flagged:
            console.print(f"{row.path}: {row.megabytes:.1f} MB are whole on every device; no rule of the preset splits it, or "
                          "its dimensions are not divisible", highlight=False)  # fmt: skip


def _shape(row: Row) -> str:
    return " x ".join(map(str, row.shape)) or "scalar"


def _spec(spec: Any) -> str:
    named = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(named) or "whole"
