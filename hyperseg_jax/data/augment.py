"""Changes of an example that keep its meaning."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from hyperseg_jax.structs import Example, Prompt

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_PATTERN = re.compile(r"\b(leftmost|rightmost|left|right)\b")


def mirror_words(text: str) -> str:
    """ "the ring left of the star" -> "the ring right of the star"."""
    return _PATTERN.sub(lambda match: _SIDES[match[0]], text)


def mirror(example: Example) -> Example:
    """The picture, its masks and its drawn prompts flipped left to right, with the words for the sides swapped."""

    def of_prompt(prompt: Prompt) -> Prompt:
        flip = lambda a: None if a is None else a[..., ::-1]
        return dataclasses.replace(prompt, text=mirror_words(prompt.text), answer=mirror_words(prompt.answer),
                                   answers=tuple(map(mirror_words, prompt.answers)), masks=flip(prompt.masks),
                                   regions=flip(prompt.regions), ignore=flip(prompt.ignore), crowds=flip(prompt.crowds),
                                   foreground=flip(prompt.foreground), others=flip(prompt.others))  # fmt: skip

    frames = np.ascontiguousarray(example.frames[:, :, ::-1])
    return dataclasses.replace(example, frames=frames, prompts=tuple(of_prompt(p) for p in example.prompts))
