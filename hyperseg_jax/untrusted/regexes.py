"""Bounds the time that a regular expression of an untrusted file can take."""

from __future__ import annotations

import math
import re
import warnings
from re import _parser  # type: ignore[attr-defined]
from typing import Any

WAYS = 2**24
"""Maximum number of ways in which the patterns of a config can match a text, all together. `re` tries each of them if none
matches: for the 1600 parameters of HyperSeg-3B, this takes less than a minute."""
LONGEST = 128
"""Maximum number of letters of the texts that are matched: paths of parameters."""
LETTERS = 1000
"""Maximum number of letters of a pattern."""
_ONE_WAY = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT")


def count_ways(pattern: str) -> float:
    """Returns in how many ways a pattern can match a text of up to LONGEST letters: sums of alternatives, products of parts.

    Infinity for a pattern with a repeat inside a repeat, or more than LONGEST required repeats; with references, lookaround,
    possessive repeats or atomic groups; with more than LETTERS letters; or if it is not a regular expression, or has ambiguous
    parts, of which `re` warns ("[[a]").
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _count_ways(_parser.parse(pattern)) if len(pattern) <= LETTERS else math.inf
    except (re.error, RecursionError, OverflowError, Warning):
        return math.inf


def _count_ways(parts: Any, *, repeated: bool = False) -> float:
    """Returns in how many ways a sequence of parsed parts can match. repeated: whether it is inside a repeat."""
    ways = 1.0
    for operation, value in parts:
        name = str(operation)
        if name == "SUBPATTERN":
            ways *= _count_ways(value[-1], repeated=repeated)
        elif name == "BRANCH":
            ways *= sum(_count_ways(branch, repeated=repeated) for branch in value[1])
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and not repeated and value[0] <= LONGEST:
            each = _count_ways(value[2], repeated=True)
            ways *= sum(each**times for times in range(value[0], min(value[1], LONGEST) + 1))
        elif name not in _ONE_WAY:
            return math.inf
    return ways
