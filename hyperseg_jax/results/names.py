"""Matches the names that a model wrote with a class list."""

from __future__ import annotations

from collections.abc import Sequence

from hyperseg_jax.structs import WrittenName


def match_names(names: Sequence[str], classes: Sequence[str]) -> tuple[WrittenName, ...]:
    """Returns the names with the indices of their classes. A name is that of the first class that is written in the same way,
    or else of the first class with the same words, ignoring case."""
    numbered = list(reversed(list(enumerate(classes))))
    labels = {_words(name): label for label, name in numbered}
    exact = {name: label for label, name in numbered}
    return tuple(WrittenName(name, exact.get(name, labels.get(_words(name)))) for name in names)


def _words(name: str) -> str:
    return " ".join(name.casefold().split())
