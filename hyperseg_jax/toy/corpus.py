"""What the toy tokenizer is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.toy import clips, expressions, questions, scenes
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, plural

VOCAB_SIZE = 640
"""An upper bound: merging stops before it, when every word of the toy world is one token."""

SAMPLES = 150


def sentences() -> list[str]:
    """Everything that is said about some scenes and clips of every kind."""
    said = []
    for index in range(SAMPLES):
        rng = np.random.default_rng(index)
        kinds = (scenes.KNOWN, scenes.COMPOSITIONAL, scenes.HELD_BACK)[index % 3]
        scene = scenes.sample(kinds, int(rng.integers(3, 7)), "default", rng)
        clip = clips.sample(kinds, 4, "default", rng)
        if scene:
            said += [text for pair in questions.conversation(scene, rng) for text in pair]
            said += [text for question in questions.reasoning(scene) for text in (question.text, question.answer)]
            for group in sorted(set(expressions.DECK)):
                said += [e.text for e in expressions.write_expressions(scene, [group], scenes.KNOWN, rng) or ()]
        if clip:
            for group in clips.SHARES:
                said += [e.text for e in clips.write_expressions(clip, [group], scenes.KNOWN, rng) or ()]
    return said


def words() -> set[str]:
    """The words of the toy world as a tokenizer meets them: inside a sentence (with a space) and at its start."""
    said = sentences()
    inside = set(re.findall(r" [a-z]+", "\n".join(said)))
    named = {word for noun in SHAPES for word in (noun, plural(noun))} | {*COLORS, *BACKGROUNDS, "shape", "shapes"}
    starting = {word for name in (*COLORS, *BACKGROUNDS) for word in (name, name.capitalize())}
    starting |= set(re.findall(r"^[A-Za-z]+", "\n".join(said), re.MULTILINE))
    listed = {"a", "an", *questions.NUMBERS}  # words after ", ", which is a phrase of its own
    return inside | {f" {word}" for word in named} | starting | listed | {"small", "large", "background"}


def train(phrases: set[str], added: Sequence[str]) -> Tokenizer:
    """The toy tokenizer; the same on every run. phrases: fixed parts of a system's prompts, which become one token each. added:
    its special tokens."""
    return Tokenizer.train(words(), phrases, VOCAB_SIZE, added=added)
