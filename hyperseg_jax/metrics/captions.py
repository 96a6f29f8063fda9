"""Scores of region captions against one or several references each: CIDEr-D, BLEU-1 to BLEU-4 and ROUGE-L.

CIDEr-D weights words by their frequency in all references, so the captions themselves are kept until the scores are computed.
METEOR, SPICE and others need external tools (metrics/caption_tools.py).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from hyperseg_jax.metrics import ngrams
from hyperseg_jax.metrics.caption_words import split_words
from hyperseg_jax.metrics.sums import check_names, is_list

Caption = tuple[str, tuple[str, ...]]
"""A caption and its references."""
BLEU = tuple(f"bleu@{n}" for n in range(1, ngrams.ORDERS + 1))
TOOL_SCORES = ("meteor", "spice", "noun", "verb", "noun_fuzzy", "verb_fuzzy")
"""Scores of external tools. noun, verb: recall of the nouns and verbs of the references; fuzzy: with similar words."""
CONTROLS = ("cider_swapped", "cider_blind")
"""CIDEr-D with the captions of other regions, and of the best captions that ignore the region."""


class CaptionScores:
    """CIDEr-D (1.488 is 148.8 in papers), BLEU-1 to BLEU-4 and ROUGE-L over all captions."""

    optional_scores = (*TOOL_SCORES, *CONTROLS)

    def __init__(self) -> None:
        self._examples: dict[str, list[Caption]] = {}

    def update(self, name: str, captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds the captions of an example. name: of the example, unique. references: those of each caption, at least one."""
        check_names("captions", captions)
        for texts in references:
            check_names("references", texts)
        if len(captions) != len(references):
            raise ValueError(f"{len(captions)} captions for {len(references)} regions")
        if not all(references):
            raise ValueError("a region has no reference caption")
        if name in self._examples:
            raise ValueError(f"{name}: scored twice; add each example once")
        self._examples[name] = [(caption, tuple(texts)) for caption, texts in zip(captions, references, strict=True)]

    @property
    def updates(self) -> int:
        """The number of examples."""
        return len(self._examples)

    def captions(self) -> list[Caption]:
        """Returns all captions with their references, in an order that does not depend on the hosts."""
        return [caption for name in sorted(self._examples) for caption in self._examples[name]]

    def words_by_example(self, split: Callable[[str], str]) -> dict[str, list[Caption]]:
        """Returns the captions of each example in words. split: see score_words."""
        return {name: _split(self._examples[name], split) for name in sorted(self._examples)}

    def compute(self) -> dict[str, float]:
        """Returns {"cider", "bleu@1", ..., "bleu@4", "rouge_l", "count"}; zeros if empty. Words are split by our own rules."""
        return score_words(self.captions(), split_words)

    def names(self) -> tuple[str, ...]:
        """Returns every score, with those of external tools."""
        return (*type(self)().compute(), *self.optional_scores)

    def merge(self, other: Self) -> None:
        """Adds the captions of another accumulator. Raises ValueError if both contain the same example."""
        if duplicates := sorted(self._examples.keys() & other._examples.keys()):
            raise ValueError(f"{', '.join(duplicates[:5])}: scored twice; add each example once")
        self._examples |= other._examples

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON-compatible values."""
        examples = {name: [[text, list(texts)] for text, texts in rows] for name, rows in self._examples.items()}
        return {"options": {}, "examples": examples}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restores an accumulator. Raises ValueError, TypeError or KeyError for an invalid state."""
        restored = cls()
        if state["options"]:
            raise ValueError(f"captions have no options, but there are {state['options']}")
        for name, rows in state["examples"].items():
            if not (is_list(rows, list) and all(map(_is_caption, rows))):
                raise ValueError(f"{name!r} has captions in an unexpected format")
            restored._examples[name] = [(text, tuple(texts)) for text, texts in rows]
        return restored


def _is_caption(row: list[Any]) -> bool:
    """Returns whether a JSON list is [caption, [reference, ...]]."""
    return len(row) == 2 and type(row[0]) is str and is_list(row[1], str) and bool(row[1])


def _split(captions: Sequence[Caption], split: Callable[[str], str]) -> list[Caption]:
    return [(split(text), tuple(map(split, truth))) for text, truth in captions]


def score_words(captions: Sequence[Caption], split: Callable[[str], str]) -> dict[str, float]:
    """Returns the scores of captions that need no external tool. split: separates the words of a text by spaces."""
    rows = _split(captions, functools.lru_cache(maxsize=1 << 16)(split))  # many captions are equal
    texts, references = [text for text, _ in rows], [truth for _, truth in rows]
    counts = functools.reduce(operator.add, map(ngrams.bleu_counts, texts, references), ngrams.BleuCounts())
    bleu = counts.scores() if captions else [0.0] * ngrams.ORDERS
    rouge = list(map(ngrams.rouge_l, texts, references))
    return {
        "cider": float(np.mean(ngrams.cider_d(texts, references))) if captions else 0.0,
        **dict(zip(BLEU, bleu, strict=True)),
        "rouge_l": float(np.mean(rouge)) if captions else 0.0,
        "count": float(len(captions)),
    }
