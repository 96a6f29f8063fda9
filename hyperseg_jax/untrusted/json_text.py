"""Parses JSON annotation files, with limits on size and nesting."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value

AGAIN = "download or write it again"
BLOCK = 2**24
UTF8 = "utf-8-sig"  # also without a byte order mark
_OTHER_SIGN = rb"[\x80-\x84\x86-\x90\x95\x98-\x9f\xa1-\xff]"  # beyond ASCII, but no quotation mark, dash, ellipsis or space
_NOT_WESTERN = re.compile(rb"[\xc0-\xff]" + _OTHER_SIGN + rb"|" + _OTHER_SIGN + rb"[\xc0-\xff]")
_OTHER, _OPENS, _CLOSES, _QUOTE, _ESCAPE = range(5)
_SIGNS = np.zeros(256, np.uint8)
for _signs, _meaning in ((b"{[", _OPENS), (b"}]", _CLOSES), (b'"', _QUOTE), (b"\\", _ESCAPE)):
    _SIGNS[list(_signs)] = _meaning


def read_bytes(path: pathlib.Path) -> bytes:
    """Reads an annotation file of at most limits.json_bytes bytes. Raises BadFile, OSError."""
    return paths.read_file(path, limits.current().json_bytes, "json_bytes")


def is_damaged_utf8(data: bytes) -> bool:
    """Whether a text that is not valid UTF-8 has at least as many valid characters of several bytes as bytes that are not
    UTF-8. Text in another encoding has hardly any."""
    valid = data.decode("utf-8", "ignore")
    letters = len(valid) - len(valid.encode("ascii", "ignore"))
    return letters >= len(data) - len(valid.encode())


def find_encoding(data: bytes, other: str) -> str:
    """Returns the encoding of a text file of a benchmark that has some files in `other`, a Western encoding of one byte for
    each letter: that, if the file is not UTF-8 and looks like it.

    It does not if letters beyond ASCII stand side by side, as in Russian, Chinese or Japanese files.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        if not _NOT_WESTERN.search(data) and not is_damaged_utf8(data):
            return other
    return UTF8


def decode_text(data: bytes, encoding: str = UTF8) -> str:
    """Decodes a text file. Raises BadFile if it is not in this encoding."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == UTF8 and is_damaged_utf8(data):
            raise BadFile(f"is damaged (byte {error.start} is not UTF-8)", AGAIN) from error
        name = "UTF-8" if encoding == UTF8 else f"UTF-8 or {encoding}"
        raise BadFile(f"is not {name} (byte {error.start})", "save it as UTF-8") from error


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON's escapes can also name one half of a character."""
    try:
        return value.isascii() or value.encode() is not None
    except UnicodeEncodeError:
        return False


def parse_json(data: bytes, encoding: str = UTF8) -> Any:
    """Parses JSON. Raises BadFile if it is invalid, in another encoding, or nested deeper than limits.depth."""
    check_depth(data)
    text = decode_text(data, encoding)
    try:
        return json.loads(text, object_pairs_hook=_build_unique_dict)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""  # callers add the line number for files with one JSON per line
        raise BadFile(f"is not valid JSON ({error.msg} at {line}column {error.colno})", AGAIN) from error
    except (ValueError, RecursionError) as error:  # such as numbers with too many digits
        raise BadFile(f"is not valid JSON ({escaped(str(error))})", AGAIN) from error


def is_list_of_numbers(value: object) -> bool:
    """Whether a value of JSON is a list of numbers. Texts and booleans are no numbers, although NumPy and float() convert
    them."""
    return isinstance(value, list) and set(map(type, value)) <= {int, float}


def _build_unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object. Raises BadFile if it has a key twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadFile(f"has the key {escaped_value(duplicate)} twice in one object", AGAIN)
    return fields


def check_depth(data: bytes, what: str = "") -> None:
    """Raises BadFile if a JSON text is nested deeper than limits.depth. what: prefix of the message ("its header ")."""
    limit = limits.current().depth
    if data.count(b"[") + data.count(b"{") > limit and nesting_depth(data) > limit:
        raise BadFile(f"{what}nests deeper than {limit}", "if that is intended, raise limits.depth")


def nesting_depth(data: bytes) -> int:
    """Returns the nesting depth of a JSON text, ignoring brackets in strings."""
    deepest = level = 0
    quoted = escaped = False
    for start in range(0, len(data), BLOCK):
        block = np.frombuffer(data, np.uint8, min(BLOCK, len(data) - start), start)
        signs = _SIGNS[block]
        if escaped or (signs == _ESCAPE).any():
            escaped = _clear_escaped(signs, escaped)
        signs = signs[signs != _OTHER]
        quotes = signs == _QUOTE
        outside = (np.cumsum(quotes) + quoted) % 2 == 0
        quoted ^= bool(quotes.sum() % 2)
        steps = ((signs == _OPENS).astype(np.int64) - (signs == _CLOSES))[outside & ~quotes]
        if len(steps):
            levels = level + np.cumsum(steps)
            deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _clear_escaped(signs: np.ndarray, escaped: bool) -> bool:
    """Clears each character that is escaped by a backslash, in place. Returns whether the block ends with an escaping
    backslash. In a run of backslashes, every second one is itself escaped."""
    if escaped:
        signs[0] = _OTHER
    slashes = signs == _ESCAPE
    edges = np.flatnonzero(np.diff(slashes.astype(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    odd = ends[(ends - starts) % 2 == 1]
    signs[slashes] = _OTHER
    signs[odd[odd < len(signs)]] = _OTHER
    return bool(len(odd) and odd[-1] == len(signs))
