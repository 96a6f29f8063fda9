"""The prompts of training about one image beside its class list: phrases, and objects to mark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.text.class_templates import SETS, clean_class_name

MOST = 4
"""Maximum number of objects with a sentence, or of different class names, as published."""


def derive_prompts(
    classes: Prompt, sentences: Sequence[Prompt], phrases: int, regions: int, templates: str, rng: np.random.Generator
) -> list[Prompt]:
    """Returns random prompts about an image, as the published training draws them.

    classes: its class list with targets. sentences: all sentences about it. phrases: maximum number of phrases; 0: none. These
    are sentences about 1 to MOST objects, one each; for an image without sentences, 1 to MOST classes, one phrase for each of
    their segments, in a random template. regions: maximum number of segments to mark; their shapes are drawn later.
    """
    prompts: list[Prompt] = []
    if phrases and sentences:
        prompts += _draw_sentences(sentences, phrases, rng)
    if classes.masks is None or not len(classes.masks):
        return prompts
    if phrases and not sentences:
        prompts += _draw_names(classes, classes.masks, phrases, templates, rng)
    if regions:
        chosen = np.sort(rng.permutation(len(classes.masks))[:regions])
        marked = tuple(Region("mask", mask=mask) for mask in classes.masks[chosen, 0])
        prompts.append(Prompt("region", masks=classes.masks[chosen], labels=tuple(range(len(chosen))), regions=marked))
    return prompts


def _draw_sentences(sentences: Sequence[Prompt], most: int, rng: np.random.Generator) -> list[Prompt]:
    """Returns a sentence about each of some objects. Sentences with equal masks are about the same object."""
    about: dict[bytes, list[Prompt]] = {}
    for prompt in sentences:
        about.setdefault(b"" if prompt.masks is None else np.packbits(prompt.masks).tobytes(), []).append(prompt)
    chosen = [list(about.values())[k] for k in rng.permutation(len(about))[: _draw_count(most, rng)]]
    return [of_object[int(rng.integers(len(of_object)))] for of_object in chosen]


def _draw_names(classes: Prompt, masks: np.ndarray, most: int, templates: str, rng: np.random.Generator) -> list[Prompt]:
    """Returns a phrase for each segment of some classes."""
    present = rng.permutation(np.unique(classes.labels))[: _draw_count(MOST, rng)].tolist()
    of_names = [n for n, label in enumerate(classes.labels) if label in present][:most]
    texts = {label: SETS[templates][int(rng.integers(len(SETS[templates])))] for label in present}
    fill = lambda label: texts[label].replace("{}", clean_class_name(classes.classes[label]))
    return [Prompt("referring", text=fill(classes.labels[n]), masks=masks[n : n + 1]) for n in of_names]


def _draw_count(most: int, rng: np.random.Generator) -> int:
    return min(most, int(rng.integers(1, MOST + 1)))
