"""JSON from files that are not trusted: no name twice, no nesting without end."""

from __future__ import annotations

import json
from typing import Any

from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, shown

PARTS = 5_000_000  # values and containers; some 8 a tensor


def parse(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; `what` names it in messages ("its header"). Raises BadFile."""
    if sum(data.count(sign) for sign in b",[{") > PARTS:
        raise BadFile(f"{what} has more than {PARTS} parts", CONVERT)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, what))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{what} is not readable JSON ({shown(str(error))})") from error
    if not isinstance(value, dict):
        raise BadFile(f"{what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"{what} names {shown(name)} twice")
        found[name] = value
    return found
