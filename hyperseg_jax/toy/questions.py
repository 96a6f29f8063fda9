"""Generates reasoning questions about counts and comparisons with explanations, and conversations about an image."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.toy.scenes import Scene, Thing, pick_one
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, KNOWN_COLORS, KNOWN_SHAPES, add_article, pluralize

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


@dataclasses.dataclass(frozen=True)
class Question:
    """A reasoning question. targets: indices of the objects that answer it. answer: the explanation."""

    text: str
    targets: tuple[int, ...]
    answer: str
    group: str


def _counting_questions(things: Sequence[Thing]) -> list[Question]:
    """Returns questions about how often a shape or a colour appears."""
    result = []
    for trait in ("shape", "color"):
        values = [getattr(thing, trait) for thing in things]
        counts = collections.Counter(values)
        for times, word in ((2, "twice"), (3, "three times")):
            matching = [value for value, count in counts.items() if count == times]
            if len(matching) == 1 and len(counts) > 1:
                targets = tuple(k for k, value in enumerate(values) if value == matching[0])
                noun = pluralize(matching[0]) if trait == "shape" else f"{matching[0]} shapes"
                answer = f"There are {NUMBERS[times]} {noun}, and no other {trait} appears {word}."
                result.append(Question(f"Which {trait} appears exactly {word}?", targets, answer, "counting"))
        ranked = counts.most_common()
        if len(ranked) > 1 and ranked[0][1] > ranked[1][1]:
            best, count = ranked[0]
            noun = pluralize(best) if trait == "shape" else f"{best} shapes"
            targets = tuple(k for k, value in enumerate(values) if value == best)
            answer = f"There are {NUMBERS[count]} {noun}, more than of any other {trait}."
            result.append(Question(f"Which {trait} is the most common?", targets, answer, "counting"))
    return result


def _comparison_questions(things: Sequence[Thing]) -> list[Question]:
    """Returns questions about the object that differs from all others in size, shape or colour."""
    result = []
    for size, word in (("large", "larger"), ("small", "smaller")):
        targets = [k for k, thing in enumerate(things) if thing.size == size]
        if len(targets) == 1:
            answer = f"Only the {things[targets[0]].name} is {size}."
            question = f"Which object is {word} than all the others?"
            result.append(Question(question, tuple(targets), answer, "comparison"))
    for trait in ("shape", "color"):
        counts = collections.Counter(getattr(thing, trait) for thing in things)
        targets = [k for k, thing in enumerate(things) if counts[getattr(thing, trait)] == 1]
        if len(targets) == 1:
            thing = things[targets[0]]
            answer = f"Only one is a {thing.shape}." if trait == "shape" else f"Only the {thing.shape} is {thing.color}."
            question = f"Which object has a {trait} that no other has?"
            result.append(Question(question, tuple(targets), answer, "comparison"))
    return result


def find_reasoning_questions(scene: Scene) -> list[Question]:
    """Returns all counting and comparison questions that have a unique answer in a scene."""
    return _counting_questions(scene.things) + _comparison_questions(scene.things)


def describe_objects(things: Sequence[Thing]) -> str:
    """Lists the objects as a sentence: 'A red ring and two blue stars.'"""
    counts = collections.Counter(thing.pair for thing in things)
    parts = [
        add_article(f"{color} {shape}") if count == 1 else f"{NUMBERS[count]} {color} {pluralize(shape)}"
        for (color, shape), count in sorted(counts.items())
    ]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def write_conversation(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Returns three turns of (question, answer): on a count or colour, yes or no, and a list or the background."""
    things = scene.things
    noun = pick_one(rng, KNOWN_SHAPES) if rng.random() < 0.3 else pick_one(rng, things).shape
    count = sum(thing.shape == noun for thing in things)
    first = (f"How many {pluralize(noun)} are there?", f"{NUMBERS[count].capitalize()}.")
    if count == 1 and rng.random() < 0.6:
        color = next(thing.color for thing in things if thing.shape == noun)
        first = (f"What color is the {noun}?", f"{color.capitalize()}.")
    present = pick_one(rng, things)
    name = present.name if rng.random() < 0.5 else f"{pick_one(rng, KNOWN_COLORS)} {present.shape}"
    present_in_scene = any(thing.name == name for thing in things)
    second = (f"Is there {add_article(name)}?", "Yes." if present_in_scene else "No.")
    third = ("List the objects.", describe_objects(things))
    if rng.random() < 0.5:
        third = (f"Is the background {' or '.join(sorted(BACKGROUNDS))}?", f"{scene.background.capitalize()}.")
    return [first, second, third]
