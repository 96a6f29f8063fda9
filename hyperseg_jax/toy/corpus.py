"""What the toy tokenizer is trained on. `python -m hyperseg_jax.toy.corpus` writes it again."""

from __future__ import annotations

import re

import numpy as np

from hyperseg_jax.text.prompts import ANSWERS, QUESTIONS, TEMPLATES
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.toy import clips, expressions, questions, scenes
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, plural

VOCAB_SIZE = 640
"""An upper bound: merging stops before it, when every word of the toy world is one token."""

SAMPLES = 150

_SLOTS = re.compile(r"<[a-z]+>|\{[a-z]+\}|\[SEG\]")


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


def phrases() -> set[str]:
    """The fixed parts of every prompt, and what stands between the names of a class list."""
    fixed = {", ", ".\n", " ASSISTANT:"}
    openings = {template.split("{question}")[0] for template in TEMPLATES.values()}
    for task, question in QUESTIONS.items():
        parts = _SLOTS.split(question)
        fixed |= {opening + parts[0] for opening in openings} | {*parts[1:], *_SLOTS.split(ANSWERS[task])}
    return {phrase for phrase in fixed if len(phrase) > 1}


def train() -> Tokenizer:
    """The toy tokenizer; the same on every run."""
    return Tokenizer.train(words(), phrases(), VOCAB_SIZE)


if __name__ == "__main__":
    TOY_FILE.parent.mkdir(exist_ok=True)
    train().save(TOY_FILE.parent)
    (TOY_FILE.parent / "tokenizer.json").replace(TOY_FILE)
    print(f"wrote {TOY_FILE}")
