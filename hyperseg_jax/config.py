"""Loads configs by path or by name, with an optional argument after a colon (name:argument) and --config.x.y=z overrides."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

import hyperseg_jax
from hyperseg_jax import config_fields, renamed_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.printing import escaped, escaped_value

PACKAGE = pathlib.Path(hyperseg_jax.__file__).parent


MAX_PROBLEMS = 4
"""Invalid fields in a message."""
MAX_DIFFERENCES = 4
"""Maximum number of differing fields that a message lists."""


def describe_differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Describes, for a message, the fields in which two configs differ; "" if they are equal.

    saved, given: {path of the field: value} of an existing run and of this one. Both may come from untrusted files.
    """
    differing = [key for key in sorted(saved.keys() | given.keys()) if saved.get(key) != given.get(key)]
    messages = [
        f"{escaped(key.replace('/', '.'))}: {escaped_value(saved.get(key))} saved, {escaped_value(given.get(key))} given"
        for key in differing[:MAX_DIFFERENCES]
    ]
    more = [f"{len(differing) - MAX_DIFFERENCES} more"] if len(differing) > MAX_DIFFERENCES else []
    return "; ".join(messages + more)


def shipped_folder() -> pathlib.Path:
    """Returns the folder of the shipped configs: inside the package in a wheel, at the top level in a checkout."""
    packed = PACKAGE / "configs"
    return packed if packed.is_dir() else PACKAGE.parent / "configs"


def shipped_names() -> list[str]:
    """Returns the names of the shipped configs."""
    return sorted(path.stem for path in shipped_folder().glob("*.py") if not path.stem.startswith("_"))


def find_file(name: str) -> pathlib.Path:
    """Returns the path of a config file, given its path or the name of a shipped config ("tiny", "tiny.py",
    "configs/tiny.py"). Raises UserError if there is none."""
    path = pathlib.Path(name)
    if path.is_file():
        return path
    shipped_file = shipped_folder() / f"{path.stem}.py"
    if shipped_file.is_file():
        return shipped_file
    raise UserError(f"--config {name}: no such file or shipped config; give a file, or one of {', '.join(shipped_names())}")


def load(name: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Loads a config, applies overrides ("train.steps=10"), fills in default limits, and checks all fields. Executes the config
    file, which is code of the user.

    name: "hyperseg_3b:v5e-16" calls get_config("v5e-16").
    """
    config = _execute_file(name)
    limits_block = config.get("limits", {})
    if isinstance(limits_block, Mapping | ml_collections.ConfigDict):
        with config.unlocked():
            config.limits = limits.default_block() | dict(limits_block)
    apply_overrides(config, overrides)
    check_fields(config, f"--config {name}: " if not overrides else "")
    return config


def apply_overrides(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Sets fields of a config in place, each given as "train.steps=10". Raises UserError as `load`."""
    for override in overrides:
        _apply_override(config, override)


def check_fields(config: Any, where: str) -> None:
    """Raises UserError with the first MAX_PROBLEMS invalid fields of a config. where: prefix of the message."""
    fields = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    system = fields.get("system")
    if problem := next(renamed_fields.problems(fields), ""):
        raise UserError(f"{where}{problem}")
    found = config_fields.problems(fields, known_fields(system if isinstance(system, str) else ""))
    if problems := list(itertools.islice(found, MAX_PROBLEMS)):
        raise UserError(f"{where}{'; '.join(problems)}")


@functools.cache
def known_fields(system: str) -> dict[str, Any]:
    """Returns all fields of the shipped configs of a system, with example values that show their types. For a system without
    shipped configs, returns the fields common to all systems."""
    all_configs = [_execute_file(name).to_dict() for name in shipped_names()]
    system_configs = [fields for fields in all_configs if fields["system"] == system]
    if system_configs:
        return config_fields.merge_schemas(*system_configs)
    return config_fields.common_fields(config_fields.merge_schemas(*all_configs))


def _execute_file(name: str) -> ml_collections.ConfigDict:
    """Executes a config file and returns the result of its get_config()."""
    file, _, argument = (name, "", "") if pathlib.Path(name).is_file() else name.partition(":")
    path = find_file(file)
    try:
        get_config = runpy.run_path(str(path), run_name=f"hyperseg_config_{path.stem}")["get_config"]
        if argument and not inspect.signature(get_config).parameters:
            raise UserError(f"--config {name}: get_config() of {file} takes no argument; remove ':{argument}'")
        return get_config(*[argument] if argument else []).lock()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--config {path}: cannot be executed ({type(error).__name__}: {error}); give a Python file that defines "
            "get_config(); --traceback shows the failing line"
        ) from error


def _apply_override(config: ml_collections.ConfigDict, text: str) -> None:
    """Sets one field in place, given as "train.steps=10". A text may stand for a tuple of texts, such as one path. Raises
    UserError if the field does not exist or has another type."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--config.{escaped(text)}: give a value, as in --config.{escaped(text)}=1")
    if not key.isprintable():
        raise UserError(f"--config.{escaped(key)}: the field name has unprintable characters; remove them")
    *parents, leaf = key.split(".")
    node: Any = config
    for depth, part in enumerate((*parents, leaf)):
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            known = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
            close = difflib.get_close_matches(part, known, 1, 0.5)
            if new := renamed_fields.new_name(key):
                raise UserError(f"--config.{key}: was renamed to {new}; use --config.{new}")
            hint = f"did you mean {'.'.join([*parents[:depth], close[0]])}?" if close else f"known fields: {', '.join(known)}"
            raise UserError(f"--config.{key}: unknown config key {part!r}; {hint}")
        if depth < len(parents):
            node = node[part]
    parsed, current = _parse_value(key, value), node[leaf]
    if isinstance(parsed, str) and parsed[:1] not in ("(", "[") and _is_tuple_of_texts(current):
        parsed = (parsed,)
    if problem := next(config_fields.name_problems(f"--config.{key}", parsed), ""):
        raise UserError(problem)
    if isinstance(current, ml_collections.ConfigDict):
        _check_block_override(key, parsed, current)
    elif parsed is None and current is not None:
        raise UserError(f"--config.{key}={escaped(value)}: the field takes {type(current).__name__}, not None")
    try:
        if isinstance(current, float) and isinstance(parsed, int):
            parsed = float(parsed)
        node[leaf] = parsed
    except (TypeError, ValueError, OverflowError) as error:
        expected = type(current).__name__
        raise UserError(f"--config.{key}={escaped(value)}: the field takes {expected}, not {type(parsed).__name__}") from error


def _parse_value(key: str, text: str) -> Any:
    """Parses the value of an override as a Python literal; returns any other text unchanged. key: the field, for messages."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError):
        return text
    except (MemoryError, RecursionError) as error:
        raise UserError(f"--config.{key}={escaped(text)}: is nested too deeply; give a plain value") from error


def _is_tuple_of_texts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(element, str) for element in value)


def _check_block_override(key: str, value: Any, current: ml_collections.ConfigDict) -> None:
    """Raises UserError unless `value`, which replaces the block `current`, is a dict with all of its fields.

    A block is a nested dict of fields, such as `train`. Blocks with user-defined field names (`data.tasks`) may lack fields.
    """
    if not isinstance(value, dict):
        raise UserError(
            f"--config.{key}: is a block; set one of its fields, as in --config.{key}.NAME=VALUE ({', '.join(current)})"
        )
    if not key.startswith(config_fields.UNCHECKED_BLOCKS) and (missing := [name for name in current if name not in value]):
        raise UserError(
            f"--config.{key}: lacks {', '.join(missing)}; set a single field, as in --config.{key}.{missing[0]}=VALUE"
        )
