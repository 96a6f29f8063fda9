"""JSON from files that are not trusted: bounded in size, parts and nesting, no name twice, only finite numbers."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, naming, shown

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
    """Any JSON value of at most so many parts. finite: refuses NaN, infinities and numbers beyond a float, which are told only
    in logs. Raises BadFile."""
    if sum(data.count(sign) for sign in b",[{") > parts:
        raise BadFile(f"{what} has more than {parts} parts", CONVERT)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, what))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{what} is not readable JSON ({shown(str(error))})") from error
    _check(value, what, finite)
    return value


def text(value: Any) -> str:
    """JSON that any reader takes: a number that is not finite is null."""
    return json.dumps(_finite(value), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"{what} names {shown(name)} twice")
        found[name] = value
    return found


def _check(value: Any, what: str, finite: bool) -> None:
    """Level by level, so that no nesting is deep for this function itself."""
    allowed, level = limits.in_force().depth, [value]
    for _ in range(allowed + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif finite and isinstance(one, float) and not math.isfinite(one):
                raise BadFile(f"{what} has the number {one}")
        if not below:
            return
        level = below
    raise BadFile(f"{what} is nested deeper than {allowed}", "if that is right, raise limits.depth")
