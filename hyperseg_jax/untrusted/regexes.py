"""Bounds the time that regular expressions of an untrusted file can take."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from re import _parser  # type: ignore[attr-defined]
from typing import Any

REPEATS = 3
"""Maximum number of repeats of a pattern, such as "*", "+", "?" and "{3}"."""
WAYS = 2**24
"""Maximum number of ways in which the patterns of a config can match a text, all together. `re` tries each of them if none
matches: for the 1600 parameters of HyperSeg-3B, this takes less than a minute."""
LONGEST = 128
"""Maximum number of letters of the texts that are matched: paths of parameters."""
LETTERS = 1000
"""Maximum number of letters of a pattern."""
PATTERNS, ALL_LETTERS = 1000, 10_000
"""Maximum number of patterns of a config, and of their letters, all together. They compile in less than a second."""
_ONE_WAY = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT")


def size_problem(patterns: Sequence[str]) -> str:
    """Returns how to fix the patterns of a config if they are too many or too long to be parsed, "" if they are not."""
    if len(patterns) <= PATTERNS and sum(map(len, patterns)) <= ALL_LETTERS:
        return ""
    return f"give at most {PATTERNS} regular expressions with {ALL_LETTERS} letters in total"


def count_ways(pattern: str) -> float:
    """Returns in how many ways a pattern can match a text of up to LONGEST letters: sums of alternatives, products of parts.

    Infinity for a pattern with a repeat inside a repeat, more than REPEATS repeats, or more than LONGEST required repeats; with
    flags or letters other than ASCII, with which a set takes long to compile; with references, lookaround, possessive repeats
    or atomic groups; with more than LETTERS letters; or if it is not a regular expression, or has ambiguous parts, of which
    `re` warns ("[[a]").
    """
    if len(pattern) > LETTERS:
        return math.inf
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = _parser.parse(pattern)
            too_many = parsed.state.flags != re.UNICODE or _count_repeats(parsed) > REPEATS
            return math.inf if too_many else _count_ways(parsed)
    except (re.error, RecursionError, OverflowError, Warning):
        return math.inf


def _inner_parts(name: str, value: Any) -> list[Any]:
    """Returns the sequences of parsed parts inside a part."""
    if name == "SUBPATTERN":
        return [value[-1]]
    if name == "BRANCH":
        return list(value[1])
    return [value[2]] if name.endswith("_REPEAT") else []


def _count_repeats(parts: Any) -> int:
    """Returns the number of repeats in a sequence of parsed parts."""
    return sum(
        str(operation).endswith("_REPEAT") + sum(map(_count_repeats, _inner_parts(str(operation), value)))
        for operation, value in parts
    )


def _count_ways(parts: Any, *, repeated: bool = False) -> float:
    """Returns in how many ways a sequence of parsed parts can match. repeated: whether it is inside a repeat."""
    ways = 1.0
    for operation, value in parts:
        name = str(operation)
        if name == "SUBPATTERN" and not value[1] and not value[2]:  # flags to add and to remove
            ways *= _count_ways(value[-1], repeated=repeated)
        elif name == "BRANCH":
            ways *= sum(_count_ways(branch, repeated=repeated) for branch in value[1])
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and not repeated and value[0] <= LONGEST:
            each = _count_ways(value[2], repeated=True)
            ways *= sum(each**times for times in range(value[0], min(value[1], LONGEST) + 1))
        elif name not in _ONE_WAY or not _is_ascii(name, value):
            return math.inf
    return ways


def _is_ascii(name: str, value: Any) -> bool:
    """Returns whether a parsed part that matches one letter names ASCII letters only."""
    if name == "IN":
        return all(_is_ascii(str(inner), inner_value) for inner, inner_value in value)
    if name == "RANGE":
        return bool(value[1] < 128)
    return name not in ("LITERAL", "NOT_LITERAL") or value < 128
