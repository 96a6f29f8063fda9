"""What lies where: one row a parameter, and what should be split but is not (in presets that split the width of the model)."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

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


def lines(found: list[Row], placed: Placement) -> list[str]:
    """The rows as text, equal blocks (layers_0, layers_1, ...) as one with their number; above them the mesh, below the sum."""
    sizes = " x ".join(f"{name} {size}" for name, size in placed.mesh.shape.items())
    told = [dataclasses.replace(row, path=re.sub(r"_\d+/", "_*/", row.path)) for row in found]
    width = max(len(row.path) for row in told)
    made = [f"preset {placed.preset}, mesh {sizes}; of each parameter: shape, type, MB a device, what splits each dimension"]
    for row, count in collections.Counter(told).items():
        made.append(
            f"{count:3} x {row.path:{width}}  {_shape(row):>20}  {row.type:8}  {row.megabytes:9.3f} MB  {row.spec}"
            + ("  <- whole on every device, though the preset splits parameters" if row.flagged else "")
        )
    made.append(f"parameters: {sum(row.megabytes for row in found):.1f} MB a device")
    return made


def _shape(row: Row) -> str:
    return " x ".join(map(str, row.shape)) or "scalar"


def _spec(spec: Any) -> str:
    named = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(named) or "whole"
