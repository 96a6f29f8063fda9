"""Table of the shardings of all parameters. Flags large parameters that are replicated although the preset shards
parameters."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from hyperseg_jax.parallel.placement import Placement
from hyperseg_jax.tables import flatten

LARGE = 4.0  # MB; larger parameters should not be replicated in presets that shard parameters


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter. spec: mesh axes of each dimension, as text. megabytes: memory per device, in 1e6 bytes. flagged: it is
    large and replicated, although the preset shards parameters."""

    path: str
    shape: tuple[int, ...]
    type: str
    spec: str
    megabytes: float
    flagged: bool


def sharding_rows(abstract: Mapping[str, Any], placed: Placement) -> list[Row]:
    """Returns one row for each parameter. abstract: nested shapes with shardings."""
    shards_parameters = dict(placed.rules)["embed"] is not None
    result = []
    for path, leaf in flatten(abstract).items():
        megabytes = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize / 1e6
        replicated = all(axis is None for axis in leaf.sharding.spec)
        result.append(
            Row(
                path,
                leaf.shape,
                str(leaf.dtype),
                _format_spec(leaf.sharding.spec),
                megabytes,
                shards_parameters and replicated and megabytes > LARGE,
            )
        )
    return result


def format_rows(rows: list[Row], placed: Placement) -> list[str]:
    """Formats the rows as lines of text: the mesh, then one line for each parameter, with a count for equal parameters of
    numbered blocks (layers_0, layers_1, ...), then the total memory per device."""
    sizes = " x ".join(f"{name} {size}" for name, size in placed.mesh.shape.items())
    merged = [dataclasses.replace(row, path=re.sub(r"_\d+/", "_*/", row.path)) for row in rows]
    width = max(len(row.path) for row in merged)
    result = [
        f"preset {placed.preset}, mesh {sizes}; for each parameter: shape, type, MB per device, mesh axes of each dimension"
    ]
    for row, count in collections.Counter(merged).items():
        result.append(
            f"{count:3} x {row.path:{width}}  {_format_shape(row):>20}  {row.type:8}  {row.megabytes:9.3f} MB  {row.spec}"
            + ("  <- replicated, though the preset shards parameters" if row.flagged else "")
        )
    result.append(f"parameters: {sum(row.megabytes for row in rows):.1f} MB per device")
    return result


def _format_shape(row: Row) -> str:
    return " x ".join(map(str, row.shape)) or "scalar"


def _format_spec(spec: Any) -> str:
    named = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(named) or "replicated"
