"""Annotation files of JSON: size, nesting and digits within limits."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown

AGAIN = "download or write it again"
BLOCK = 2**24
_OTHER, _OPENS, _CLOSES, _QUOTE, _ESCAPE = range(5)
_SIGNS = np.zeros(256, np.uint8)
for _signs, _meaning in ((b"{[", _OPENS), (b"}]", _CLOSES), (b'"', _QUOTE), (b"\\", _ESCAPE)):
    _SIGNS[list(_signs)] = _meaning


def read_bytes(path: pathlib.Path) -> bytes:
    """The content of an annotation file of at most limits.json_bytes. Raises BadFile, OSError."""
    return paths.read_file(path, limits.in_force().json_bytes, "json_bytes")


def decoded(data: bytes) -> str:
    """As UTF-8, or else Windows-1252 as some ReasonSeg files are."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def parse(data: bytes) -> Any:
    """What a JSON text says. BadFile where it is none, or nests deeper than limits.depth."""
    check_depth(data)
    text = decoded(data)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""  # of a file of lines, the line is named by whoever asks
        raise BadFile(f"not json ({error.msg} at {line}column {error.colno})", AGAIN) from error
    except (ValueError, RecursionError) as error:  # numbers of too many digits, among others
        raise BadFile(f"not json ({shown(str(error))})", AGAIN) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadFile(f"names {shown(twice)} twice", AGAIN)
    return found


def check_depth(data: bytes, what: str = "") -> None:
    """BadFile where a JSON text nests deeper than limits.depth. what: names it in the message ("its header ")."""
    deepest = limits.in_force().depth
    if data.count(b"[") + data.count(b"{") > deepest and depth(data) > deepest:
        raise BadFile(f"{what}nests deeper than {deepest}", "if that is right, raise limits.depth")


def depth(data: bytes) -> int:
    """How deep a JSON text nests; brackets in its strings do not count."""
    deepest = level = 0
    quoted = escaped = False
    for start in range(0, len(data), BLOCK):
        block = np.frombuffer(data, np.uint8, min(BLOCK, len(data) - start), start)
        signs = _SIGNS[block]
        if escaped or (signs == _ESCAPE).any():
            escaped = _without_escaped(signs, escaped)
        signs = signs[signs != _OTHER]
        quotes = signs == _QUOTE
        outside = (np.cumsum(quotes) + quoted) % 2 == 0
        quoted ^= bool(quotes.sum() % 2)
        steps = ((signs == _OPENS).astype(np.int64) - (signs == _CLOSES))[outside & ~quotes]
        if len(steps):
            levels = level + np.cumsum(steps)
            deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _without_escaped(signs: np.ndarray, escaped: bool) -> bool:
    """Clears each sign that a backslash stands before; whether the block ends with such a backslash. In a run of backslashes,
    every second one is itself escaped."""
    if escaped:
        signs[0] = _OTHER
    slashes = signs == _ESCAPE
    edges = np.flatnonzero(np.diff(slashes.astype(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    odd = ends[(ends - starts) % 2 == 1]
    signs[slashes] = _OTHER
    signs[odd[odd < len(signs)]] = _OTHER
    return bool(len(odd) and odd[-1] == len(signs))
