"""CIDEr-D, BLEU and ROUGE-L of captions whose words are separated by spaces, as in the COCO caption tools (pycocoevalcap).

An item is a caption with one or several references. The order of the items does not matter.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

ORDERS = 4
"""N-grams have 1 to ORDERS words."""
SIGMA = 6.0
"""Standard deviation of CIDEr-D's length penalty."""
BETA = 1.2
"""Weight of recall in ROUGE-L."""
SMALL, TINY = 1e-9, 1e-15
"""Added to the counts of BLEU, so that they are never divided by zero."""

Grams = collections.Counter[tuple[str, ...]]
"""How often each n-gram occurs."""
References = Sequence[Sequence[str]]
"""For each caption, its references."""


def count_ngrams(text: str) -> Grams:
    """Returns how often each n-gram of a text occurs."""
    words = text.split()
    return collections.Counter(tuple(words[k : k + n]) for n in range(1, ORDERS + 1) for k in range(len(words) - n + 1))


class _Vector(NamedTuple):
    """The tf-idf weights of a text: by n-gram for each order, and their norms. length: the number of its bigrams."""

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


def cider_d(candidates: Sequence[str], references: References) -> Float64[np.ndarray, " N"]:
    """Returns the CIDEr-D of each caption, 0 to 10 (papers report the mean times 100).

    N-grams are weighted by how few captions have them in their references, so a score depends on all captions given: a single
    one has the score 0. The length in the penalty counts bigrams, as in the tools.
    """
    counted = [[count_ngrams(text) for text in texts] for texts in references]
    documents = collections.Counter(gram for grams in counted for gram in set().union(*grams))
    total = math.log(len(candidates)) if candidates else 0.0

    def vector(grams: Grams) -> _Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * (total - math.log(max(1, documents[gram])))
        norms = [math.sqrt(sum(value**2 for value in row.values())) for row in weights]
        return _Vector(weights, norms, sum(count for gram, count in grams.items() if len(gram) == 2))

    scores = np.zeros(len(candidates))
    for k, (candidate, grams) in enumerate(zip(candidates, counted, strict=True)):
        ours = vector(count_ngrams(candidate))
        similarities = [_similarity(ours, vector(reference)) for reference in grams]
        scores[k] = 10 * sum(similarities) / len(similarities)
    return scores


def _similarity(ours: _Vector, true: _Vector) -> float:
    """Returns the mean over the orders of the clipped cosine similarity, with the penalty for another length."""
    total = 0.0
    for mine, theirs, my_norm, their_norm in zip(ours.weights, true.weights, ours.norms, true.norms, strict=True):
        product = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
        total += product / (my_norm * their_norm) if my_norm and their_norm else product
    return total / ORDERS * math.exp(-((ours.length - true.length) ** 2) / (2 * SIGMA**2))


@dataclasses.dataclass(frozen=True)
class BleuCounts:
    """The counts of captions for BLEU. length: words of the captions; reference_length: words of the references of the closest
    length; guesses, hits: n-grams of the captions, and those that a reference has, for each order."""

    length: int = 0
    reference_length: int = 0
    guesses: tuple[int, ...] = (0,) * ORDERS
    hits: tuple[int, ...] = (0,) * ORDERS

    def __add__(self, other: BleuCounts) -> BleuCounts:
        guesses, hits = (
            tuple(a + b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.guesses, other.guesses), (self.hits, other.hits))
        )
        return BleuCounts(self.length + other.length, self.reference_length + other.reference_length, guesses, hits)

    def scores(self) -> list[float]:
        """Returns BLEU-1 to BLEU-4, 0 to 1."""
        scores, product = [], 1.0
        ratio = (self.length + TINY) / (self.reference_length + SMALL)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        for order, (guesses, hits) in enumerate(zip(self.guesses, self.hits, strict=True), 1):
            product *= (hits + TINY) / (guesses + SMALL)
            scores.append(product ** (1 / order) * penalty)
        return scores


def bleu_counts(candidate: str, references: Sequence[str]) -> BleuCounts:
    """Counts the n-grams of one caption that at least one of its references has."""
    length = len(candidate.split())
    most: Grams = collections.Counter()
    for reference in references:
        most |= count_ngrams(reference)
    _, closest = min((abs(words - length), words) for words in (len(reference.split()) for reference in references))
    hits = [0] * ORDERS
    for gram, count in count_ngrams(candidate).items():
        hits[len(gram) - 1] += min(count, most[gram])
    return BleuCounts(length, closest, tuple(max(0, length - n) for n in range(ORDERS)), tuple(hits))


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """Returns the ROUGE-L of one caption, 0 to 1: the F-score of the longest common subsequence, with the best precision and
    the best recall over the references."""
    words = candidate.split(" ")
    texts = [reference.split(" ") for reference in references]
    common = [_common_length(words, text) for text in texts]
    precision, recall = max(common) / len(words), max(n / len(text) for n, text in zip(common, texts, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for k, other in enumerate(second, 1):
            before, row[k] = row[k], before + 1 if word == other else max(row[k], row[k - 1])
    return row[-1]
