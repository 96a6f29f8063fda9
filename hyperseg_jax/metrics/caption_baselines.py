"""Baselines of region captions that do not look at the region. A model that does must score well above the best of them."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.metrics.captions import Caption, score_words
from hyperseg_jax.metrics.ngrams import rouge_l

CANDIDATES = 16
"""Number of captions of an image among which the best one for all its regions is looked for."""
WordsByImage = Mapping[str, Sequence[Caption]]
"""The captions of each image with their references, in words."""


def blind_cider(images: WordsByImage, seed: int = 0) -> dict[str, float]:
    """Returns the CIDEr-D of each baseline, and of the "best" one.

    frequent: the most frequent caption of all. image: for each image, the one of its captions that fits all its regions best.
    other_region: the caption of a random other region of the image. seed: of the random choices. Captions are references; those
    of the model are not used.
    """
    texts: dict[str, list[str]] = collections.defaultdict(list)
    counts = collections.Counter(truth[0] for rows in images.values() for _, truth in rows)
    frequent = max(counts, key=lambda text: (counts[text], text), default="")
    for number, rows in enumerate(images.values()):
        truths = [truth for _, truth in rows]
        texts["frequent"] += [frequent] * len(rows)
        texts["image"] += [_best_for_all(truths)] * len(rows)
        rng = np.random.default_rng([seed, number])
        others = rng.permutation(len(rows))  # a cycle without fixed points
        texts["other_region"] += [truths[other][0] for other in np.roll(others, 1)[np.argsort(others)]]
    references = [truth for rows in images.values() for _, truth in rows]
    scores = {name: _cider(captions, references) for name, captions in texts.items()}
    return scores | {"best": max(scores.values(), default=0.0)}


def swapped_cider(images: WordsByImage) -> float:
    """Returns the CIDEr-D of captions when each region gets that of the next region of its image: about as high as for the
    regions themselves if the model does not look at them. Images with one region are left out."""
    several = [rows for rows in images.values() if len(rows) > 1]
    captions = [text for rows in several for text, _ in (*rows[1:], rows[0])]
    return _cider(captions, [truth for rows in several for _, truth in rows])


def _best_for_all(truths: Sequence[Sequence[str]]) -> str:
    """Returns the reference that has the best mean ROUGE-L with those of all regions."""
    candidates = list(dict.fromkeys(text for truth in truths for text in truth))[:CANDIDATES]
    return max(candidates, key=lambda text: sum(rouge_l(text, truth) for truth in truths), default="")


def _cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return score_words([(text, tuple(truth)) for text, truth in zip(captions, references, strict=True)], str)["cider"]
