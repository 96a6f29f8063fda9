"""Configs by path or by name, with an argument behind a colon (name:argument) and --config.x.y=z overrides."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

import hyperseg_jax
from hyperseg_jax import config_fields, renamed_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.printing import shown, shown_value

PACKAGE = pathlib.Path(hyperseg_jax.__file__).parent


DIFFERENCES = 4
"""Fields that a message about two configs names."""


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Which fields of two configs differ, values by path; "" for none. Both may come from files that are not trusted."""
    found = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    told = [
        f"{shown(key.replace('/', '.'))}: {shown_value(there.get(key))} there, {shown_value(here.get(key))} here"
        for key in found[:DIFFERENCES]
    ]
    more = [f"{len(found) - DIFFERENCES} more"] if len(found) > DIFFERENCES else []
    return "; ".join(told + more)


def folder() -> pathlib.Path:
    """Where the shipped configs lie: in the wheel beside the rooms, in a checkout at the top level."""
    packed = PACKAGE / "configs"
    return packed if packed.is_dir() else PACKAGE.parent / "configs"


def shipped() -> list[str]:
    """Names of the shipped configs."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> pathlib.Path:
    """A config file by path, or by its name among the shipped ones ("tiny", "tiny.py", "configs/tiny.py")."""
    path = pathlib.Path(name)
    if path.is_file():
        return path
    ours = folder() / f"{path.stem}.py"
    if ours.is_file():
        return ours
    raise UserError(f"--config {name}: no such file, and no shipped config of that name; shipped are {', '.join(shipped())}")


def load(name: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config with overrides ("train.steps=10") applied, its fields checked; limits that it leaves out have
    their defaults. The file is the user's own code and is run.

    name: "hyperseg_3b:v5e-16" calls get_config("v5e-16").
    """
    config = _run(name)
    given = config.get("limits", {})
    if isinstance(given, Mapping | ml_collections.ConfigDict):
        with config.unlocked():
            config.limits = limits.block() | dict(given)
    for override in overrides:
        _override(config, override)
    check(config, f"--config {name}: " if not overrides else "")
    return config


def check(config: Any, where: str) -> None:
    """UserError for the first field that is not what it may be. where: what the message begins with."""
    fields = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    system = fields.get("system")
    if problem := next(renamed_fields.problems(fields), ""):
        raise UserError(f"{where}{problem}")
    if problem := next(config_fields.problems(fields, known_fields(system if isinstance(system, str) else "")), ""):
        raise UserError(f"{where}{problem}")


@functools.cache
def known_fields(system: str) -> dict[str, Any]:
    """All fields of a system's configs, with values of their kinds: those that its shipped configs have. Of a system without
    shipped configs, the fields that all share."""
    every = [_run(name).to_dict() for name in shipped()]
    own = [fields for fields in every if fields["system"] == system]
    return config_fields.joined(*own) if own else config_fields.shared(config_fields.joined(*every))


def _run(name: str) -> ml_collections.ConfigDict:
    file, _, argument = (name, "", "") if pathlib.Path(name).is_file() else name.partition(":")
    path = find(file)
    try:
        get_config = runpy.run_path(str(path), run_name=f"hyperseg_config_{path.stem}")["get_config"]
        if argument and not inspect.signature(get_config).parameters:
            raise UserError(f"--config {name}: {file} takes nothing behind a colon; leave {argument!r} out")
        return get_config(*[argument] if argument else []).lock()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--config {path}: does not run ({type(error).__name__}: {error}); give a Python file that defines "
            "get_config(), --traceback shows the line"
        ) from error


def _override(config: ml_collections.ConfigDict, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--config.{shown(text)}: give a value, as in --config.{shown(text)}=1")
    if not key.isprintable():
        raise UserError(f"--config.{shown(key)}: no such field; give its name as it stands in the config")
    *parents, leaf = key.split(".")
    node: Any = config
    for depth, part in enumerate((*parents, leaf)):
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            there = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
            close = difflib.get_close_matches(part, there, 1, 0.5)
            if new := renamed_fields.new_name(key):
                raise UserError(f"--config.{key}: is named {new} now; give --config.{new}")
            hint = f"did you mean {'.'.join([*parents[:depth], close[0]])}?" if close else f"known here: {', '.join(there)}"
            raise UserError(f"--config.{key}: unknown config key {part!r}; {hint}")
        if depth < len(parents):
            node = node[part]
    parsed, there = _value(key, value), node[leaf]
    if problem := next(config_fields.names(f"--config.{key}", parsed), ""):
        raise UserError(problem)
    if isinstance(there, ml_collections.ConfigDict):
        _check_block(key, parsed, there)
    elif parsed is None and there is not None:
        raise UserError(f"--config.{key}={shown(value)}: the field takes {type(there).__name__}, not None")
    try:
        if isinstance(there, float) and isinstance(parsed, int):
            parsed = float(parsed)
        node[leaf] = parsed
    except (TypeError, ValueError, OverflowError) as error:
        wanted = type(there).__name__
        raise UserError(f"--config.{key}={shown(value)}: the field takes {wanted}, not {type(parsed).__name__}") from error


def _value(key: str, text: str) -> Any:
    """A Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError):
        return text
    except (MemoryError, RecursionError) as error:
        raise UserError(f"--config.{key}={shown(text)}: is nested too deep; give a plain value") from error


def _check_block(key: str, value: Any, there: ml_collections.ConfigDict) -> None:
    """A block is only replaced by another one with the same fields; those of tasks have names of the user's own."""
    if not isinstance(value, dict):
        raise UserError(
            f"--config.{key}: is a block; change a field of it, as in --config.{key}.NAME=VALUE ({', '.join(there)})"
        )
    if not key.startswith(config_fields.OPEN) and (lacking := [name for name in there if name not in value]):
        raise UserError(
            f"--config.{key}: leaves out {', '.join(lacking)}; change one field, as in --config.{key}.{lacking[0]}=VALUE"
        )
