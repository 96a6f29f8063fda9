"""Prompts of training that follow from the segments of a class list: class names as phrases, and objects to mark."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.text.class_templates import SETS, clean_class_name

NAME = "name"
"""Prompt.group of phrases that are class names."""
MOST_NAMES = 4
"""Maximum number of different class names about an image, as published."""


def derive_prompts(classes: Prompt, phrases: int, regions: int, templates: str, rng: np.random.Generator) -> list[Prompt]:
    """Returns random prompts about an image, as the published training draws them.

    classes: its class list with targets. phrases: maximum number of phrases: 1 to MOST_NAMES classes of its segments, one
    phrase for each of their segments, in a random sentence. regions: maximum number of segments to mark; their shapes are drawn
    later.
    """
    if classes.masks is None or not len(classes.masks):
        return []
    prompts = []
    if phrases:
        present = rng.permutation(np.unique(classes.labels))[: int(rng.integers(1, MOST_NAMES + 1))].tolist()
        of_names = [n for n, label in enumerate(classes.labels) if label in present][:phrases]
        sentences = {label: SETS[templates][int(rng.integers(len(SETS[templates])))] for label in present}
        for n in of_names:
            label = classes.labels[n]
            text = sentences[label].replace("{}", clean_class_name(classes.classes[label]))
            prompts.append(Prompt("referring", text=text, masks=classes.masks[n : n + 1], group=NAME))
    if regions:
        chosen = np.sort(rng.permutation(len(classes.masks))[:regions])
        marked = tuple(Region("mask", mask=mask) for mask in classes.masks[chosen, 0])
        prompts.append(Prompt("region", masks=classes.masks[chosen], labels=tuple(range(len(chosen))), regions=marked))
    return prompts
