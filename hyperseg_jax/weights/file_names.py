"""What the file name of a checkpoint says about config fields that its tensors do not show."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Container

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import SourceCheckpoint
from hyperseg_jax.untrusted.printing import escaped


def check_file_name(
    kind: SourceCheckpoint, path: pathlib.Path, config: ml_collections.ConfigDict, known: Container[str] = ()
) -> list[str]:
    """Returns a line about each config field that the tensors do not show. known: fields that are recorded beside the tensors.
    Raises UserError if the name of the file says something else, or has had several meanings."""
    values = {
        name.field: str(functools.reduce(lambda block, key: block[key], name.field.split("."), config))
        for name in kind.file_names
    }
    name = next((name for name in kind.file_names if re.fullmatch(name.pattern, path.name, re.IGNORECASE)), None)
    lines = [f"{field} = {value}, which the tensors do not show" for field, value in values.items() if field not in known]
    if name is None:
        return lines
    where = escaped(str(path))
    if not name.values:
        raise UserError(f"{where}: {name.advice}")
    if values[name.field] not in name.values:
        raise UserError(
            f"{where}: by its name, its {name.field} is {' or '.join(name.values)}, but the config has {values[name.field]}; "
            f"give --config.{name.field}={name.values[0]}, or rename the file"
        )
    return lines
