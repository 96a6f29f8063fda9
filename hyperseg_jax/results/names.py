"""Matches the names that a model wrote with a class list."""

from __future__ import annotations

from collections.abc import Sequence

from hyperseg_jax.structs import WrittenName


def match_names(names: Sequence[str], classes: Sequence[str]) -> tuple[WrittenName, ...]:
    """Returns the names with the indices of their classes. A name is that of a class if both have the same words, ignoring
    case; of several such classes, it is the first."""
    labels = {_words(name): label for label, name in reversed(list(enumerate(classes)))}
    return tuple(WrittenName(name, labels.get(_words(name))) for name in names)


def _words(name: str) -> str:
    return " ".join(name.casefold().split())
