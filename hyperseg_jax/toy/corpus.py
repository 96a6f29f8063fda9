"""The training texts of the toy tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.toy import expressions, questions, scenes, videos
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, pluralize

VOCAB_SIZE = 640
"""An upper bound; merging stops earlier, when every word of the toy world is one token."""

SAMPLES = 150


def collect_sentences() -> list[str]:
    """Returns all texts about some scenes and videos of every kind."""
    texts = []
    for index in range(SAMPLES):
        rng = np.random.default_rng(index)
        kinds = (scenes.KNOWN, scenes.COMPOSITIONAL, scenes.HELD_BACK)[index % 3]
        scene = scenes.sample_scene(kinds, int(rng.integers(3, 7)), "default", rng)
        clip = videos.sample_video(kinds, 4, "default", rng)
        if scene:
            texts += [text for pair in questions.write_conversation(scene, rng) for text in pair]
            texts += [
                text for question in questions.find_reasoning_questions(scene) for text in (question.text, question.answer)
            ]
            for group in sorted(set(expressions.DECK)):
                texts += [e.text for e in expressions.write_expressions(scene, [group], scenes.KNOWN, rng) or ()]
        if clip:
            for group in videos.SHARES:
                texts += [e.text for e in videos.write_video_expressions(clip, [group], scenes.KNOWN, rng) or ()]
    return texts


def collect_words() -> set[str]:
    """Returns the words of the toy world in tokenizer form: inside a sentence (with a space) and at its start."""
    texts = collect_sentences()
    inside = set(re.findall(r" [a-z]+", "\n".join(texts)))
    nouns_and_colors = {word for noun in SHAPES for word in (noun, pluralize(noun))} | {
        *COLORS,
        *BACKGROUNDS,
        "shape",
        "shapes",
    }
    starting = {word for name in (*COLORS, *BACKGROUNDS) for word in (name, name.capitalize())}
    starting |= set(re.findall(r"^[A-Za-z]+", "\n".join(texts), re.MULTILINE))
    listed = {"a", "an", *questions.NUMBERS}  # words after ", ", which is a separate phrase
    return inside | {f" {word}" for word in nouns_and_colors} | starting | listed | {"small", "large", "background"}


def train_tokenizer(phrases: set[str], added: Sequence[str]) -> Tokenizer:
    """Trains the toy tokenizer deterministically. phrases: fixed parts of a system's prompts, which become one token each.
    added: special tokens of the system."""
    return Tokenizer.train(collect_words(), phrases, VOCAB_SIZE, added=added)
