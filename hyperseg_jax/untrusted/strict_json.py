"""JSON from files that are not trusted: bounded in size, parts and nesting, no name twice, only finite numbers."""

from __future__ import annotations

import functools
import json
import math
import pathlib
from typing import Any

from hyperseg_jax.untrusted import json_text, paths
from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, naming
from hyperseg_jax.untrusted.printing import shown

PARTS = 5_000_000  # values and containers; some 8 a tensor
LARGEST = 2**24  # bytes of a file that people could read


def read(path: pathlib.Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file. UserError with one line where it is none, or more than `largest` bytes."""
    with naming(path):
        return parse(contents(path, largest), "its content")


def contents(path: pathlib.Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file that is not absurdly large. Raises BadFile, OSError."""
    try:
        return paths.read_file(path, largest)
    except FileNotFoundError as error:
        raise BadFile("no such file", "check the path") from error


def parse(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; `what` names it in messages ("its header"). Raises BadFile."""
    value = parse_any(data, what)
    if not isinstance(value, dict):
        raise BadFile(f"{what} is not a JSON object")
    return value


def parse_any(data: bytes, what: str, *, finite: bool = True, parts: int = PARTS) -> Any:
    """Any JSON value of at most so many parts. finite: refuses NaN, infinities and numbers beyond a float, which only records
    of losses and scores may hold. Raises BadFile."""
    if sum(data.count(sign) for sign in b",[{") > parts:
        raise BadFile(f"{what} has more than {parts} parts", CONVERT)
    json_text.check_depth(data, f"{what} ")
    try:
        number, unique = _finite if finite else float, functools.partial(_unique, what)
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{what} is not readable JSON ({shown(str(error))})") from error


def text(value: Any) -> str:
    """JSON that any reader takes: a number that is not finite is null."""
    return json.dumps(_readable(value), indent=2) + "\n"


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"{what} names {shown(name)} twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it has the number {number}")
    return number
