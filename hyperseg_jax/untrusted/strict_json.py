"""Parses untrusted JSON with limits on size, number of values and nesting, without duplicate names or non-finite numbers."""

from __future__ import annotations

import functools
import json
import math
import pathlib
from typing import Any

from hyperseg_jax.untrusted import json_text, paths
from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, naming_path
from hyperseg_jax.untrusted.printing import escaped, escaped_value

PARTS = 5_000_000  # maximum number of values and containers; a safetensors header has about 8 per tensor
LARGEST = 2**24  # default maximum bytes of a file


def read(path: pathlib.Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """Reads the JSON object in a file. Raises UserError if it is invalid, or has more than `largest` bytes."""
    with naming_path(path):
        return parse(read_bytes(path, largest), "its content")


def read_bytes(path: pathlib.Path, largest: int = LARGEST) -> bytes:
    """Reads a regular file of at most `largest` bytes. Raises BadFile, OSError."""
    try:
        return paths.read_file(path, largest)
    except FileNotFoundError as error:
        raise BadFile("no such file", "check the path") from error


def parse(data: bytes, what: str) -> dict[str, Any]:
    """Parses a JSON object. what: its name in messages ("its header"). Raises BadFile if it is invalid."""
    value = parse_any(data, what)
    if not isinstance(value, dict):
        raise BadFile(f"{what} is not a JSON object")
    return value


def parse_any(data: bytes, what: str, *, finite: bool = True, parts: int = PARTS) -> Any:
    """Parses any JSON value with at most `parts` values and containers. finite: rejects NaN, infinities and overflowing
    numbers, which only records of losses and scores may contain. Raises BadFile if it is invalid."""
    if sum(data.count(sign) for sign in b",[{") > parts:
        raise BadFile(f"{what} has more than {parts} parts", CONVERT)
    json_text.check_depth(data, f"{what} ")
    try:
        number, unique = _parse_finite if finite else float, functools.partial(_build_unique_dict, what)
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{what} is not readable JSON ({escaped(str(error))})") from error


def dumps_finite(value: Any) -> str:
    """Returns standard JSON, in which numbers that are not finite become null."""
    return json.dumps(_replace_non_finite(value), indent=2) + "\n"


def _replace_non_finite(value: Any) -> Any:
    """Returns the value with null instead of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _replace_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _build_unique_dict(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object. Raises BadFile if it has a key twice. what: the JSON text, for messages."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise BadFile(f"{what} has the key {escaped_value(name)} twice in one object")
        fields[name] = value
    return fields


def _parse_finite(text: str) -> float:
    """Parses a number. Raises ValueError if it is infinite or NaN."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it has the number {number}")
    return number
