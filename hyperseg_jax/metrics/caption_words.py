"""Splits captions into words as the COCO caption tools do: Penn Treebank tokens in lower case, without punctuation.

The tools run a Java program (metrics/caption_tools.py). This module follows its rules for what captions contain; rare
abbreviations, symbols and scripts may be split differently.
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""Tokens that the tools remove. They keep brackets, because these are in lower case when punctuation is removed."""
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})
_COMPOUND = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b")
_TOKEN = re.compile(
    r"""https?://\S+ | [\w.+-]+@\w+(?:\.\w+)+          # addresses
    | '\d\ds\b | '(?:s|m|d|ll|re|ve)\b | n't\b          # '80s, and the ends of contractions
    | (?:[a-z]\.){2,} | \b[a-z]\.(?=\s|$)               # u.s., b.
    | \b(?:mr|mrs|ms|dr|st|jr|sr|vs|inc|co|ave|mt)\.(?=\s|$) | \bno\.(?=\s*\d)
    | [^\W_]+(?=n't\b)                                  # do n't
    | \d+(?:[.,:/]\d+)+ | \.\d+                         # 3.5, 1,000, 10:30, 1/2
    | [^\W_]+(?:(?:[&/_-]|'(?!(?:s|m|d|ll|re|ve|t)\b))[^\W_]+)*   # words, with hyphens and apostrophes inside
    | \.{2,} | -{2,} | [?!]{2,} | \S""",
    re.VERBOSE,
)


def split_words(text: str) -> str:
    """Returns the words of a caption, separated by spaces."""
    lowered = _COMPOUND.sub(lambda match: " ".join(filter(None, match.groups())), text.lower().translate(_QUOTES))
    tokens = (_BRACKETS.get(token, token) for token in _TOKEN.findall(lowered) if token != '"')
    return remove_punctuation(" ".join("..." if token.startswith("..") else token for token in tokens))


def remove_punctuation(tokens: str) -> str:
    """Removes punctuation from tokens that are separated by spaces."""
    return " ".join(token for token in tokens.split() if token not in PUNCTUATION)
