"""Generates referring expressions that are true, unambiguous and cannot be guessed without the text."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hyperseg_jax.toy.scenes import Kinds, Scene, Thing, pick_one
from hyperseg_jax.toy.vocabulary import pluralize

DECK = ("attribute",) * 40 + ("relation",) * 38 + ("plural",) * 11 + ("absent",) * 11
"""Groups are drawn from this shuffled deck before the scene is sampled, so hard groups are not underrepresented, and each
hundred consecutive expressions of a split have these shares."""

LOOKALIKES = 2
"""Minimum number of other objects that share colour or shape with the target."""

RELATION_GAP = 16.0
"""Margin in pixels by which a relation must hold for the target; other candidates must violate it by MISS_GAP."""
MISS_GAP = 4.0

_DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_EXTREMES = {"leftmost": (-1, 0), "rightmost": (1, 0), "topmost": (0, -1), "bottommost": (0, 1)}
_FORM_WEIGHTS = {"cs": 5, "s": 3, "c": 2, "zs": 2} | dict.fromkeys(_DIRECTIONS, 2)
"""Sampling weights by Words.kind or relation; 1 if not listed."""


@dataclasses.dataclass(frozen=True)
class Expression:
    """A referring expression. targets: indices of its objects, empty for the group "absent"."""

    text: str
    targets: tuple[int, ...]
    group: str


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a noun phrase; None for attributes that the phrase does not mention."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    @property
    def kind(self) -> str:
        """The mentioned attributes of size (z), colour (c) and shape (s): "cs", "zs", ..."""
        return "".join(k for k, word in zip("zcs", (self.size, self.color, self.shape), strict=True) if word)

    def describes(self, thing: Thing) -> bool:
        """Returns whether the phrase is true for an object."""
        return all(
            word in (None, value)
            for word, value in ((self.size, thing.size), (self.color, thing.color), (self.shape, thing.shape))
        )

    def phrase(self, many: bool = False) -> str:
        """Returns the phrase as text: 'small red ring', 'blue shapes'."""
        noun = self.shape or "shape"
        return " ".join(word for word in (self.size, self.color, pluralize(noun) if many else noun) if word)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A true expression, the words for its target, and its form (forms of a group are sampled by weight)."""

    expression: Expression
    words: Words
    form: str


def build_candidate(text: str, targets: tuple[int, ...], group: str, words: Words, form: str) -> Candidate:
    """Builds a Candidate from the fields of its expression."""
    return Candidate(Expression(text, targets, group), words, form)


def find_matching(words: Words, things: Sequence[Thing]) -> list[int]:
    """Returns the indices of the objects that match the words."""
    return [k for k, thing in enumerate(things) if words.describes(thing)]


def phrases_for(thing: Thing) -> list[Words]:
    """Returns all phrases that match an object, such as "ring", "large red ring" and "shape"."""
    return [
        Words(size, color, shape)
        for shape, color, size in itertools.product((thing.shape, None), (thing.color, None), (None, thing.size))
    ]


def count_lookalikes(targets: Sequence[int], things: Sequence[Thing]) -> int:
    """Returns the number of other objects that share colour or shape with one of the targets."""
    return sum(any(thing.resembles(things[t]) for t in targets) for k, thing in enumerate(things) if k not in targets)


def _has_lookalikes(targets: Sequence[int], things: Sequence[Thing]) -> bool:
    """Returns whether an expression for these targets is hard enough: at least LOOKALIKES other objects resemble one of
    them."""
    return count_lookalikes(targets, things) >= LOOKALIKES


def attribute_candidates(things: Sequence[Thing]) -> Iterator[Candidate]:
    """Yields expressions by attributes that match exactly one object: 'the red ring', 'the small star'."""
    for k, thing in enumerate(things):
        if not _has_lookalikes([k], things):
            continue
        for words in phrases_for(thing):
            if words.kind not in ("", "z") and find_matching(words, things) == [k]:
                yield build_candidate(f"the {words.phrase()}", (k,), "attribute", words, words.kind)


def _plural_candidates(things: Sequence[Thing]) -> Iterator[Candidate]:
    """Yields 'all circles', 'the blue shapes'."""
    for words in dict.fromkeys(words for thing in things for words in phrases_for(thing)):
        targets = find_matching(words, things)
        if words.kind not in ("", "z") and len(targets) >= 2 and _has_lookalikes(targets, things):
            for opening in ("all", "the"):
                yield build_candidate(f"{opening} {words.phrase(many=True)}", tuple(targets), "plural", words, words.kind)


def _offset(thing: Thing, other: Thing, direction: tuple[int, int]) -> tuple[float, float]:
    """Returns the offset of an object from another along a direction and perpendicular to it, in pixels."""
    dx, dy = thing.x - other.x, thing.y - other.y
    return dx * direction[0] + dy * direction[1], abs(dx * direction[1]) + abs(dy * direction[0])


def _relation_candidates(things: Sequence[Thing]) -> Iterator[Candidate]:
    """Yields 'the ring left of the red square' if it holds clearly for one of several rings."""
    references = [
        (k, words)
        for k, thing in enumerate(things)
        for words in phrases_for(thing)
        if words.kind in ("s", "c", "cs") and find_matching(words, things) == [k]
    ]
    for k, thing in enumerate(things):
        if not _has_lookalikes([k], things):
            continue
        for words in phrases_for(thing):
            distractors = [r for r in find_matching(words, things) if r != k]
            if not distractors or words.size:
                continue
            for (reference, reference_words), (name, direction) in itertools.product(references, _DIRECTIONS.items()):
                if reference == k:
                    continue
                along, across = _offset(thing, things[reference], direction)
                distractors_violate = all(
                    distractor == reference or _offset(things[distractor], things[reference], direction)[0] < -MISS_GAP
                    for distractor in distractors
                )
                if along > RELATION_GAP and along >= across and distractors_violate and distractors != [reference]:
                    text = f"the {words.phrase()} {name} the {reference_words.phrase()}"
                    yield build_candidate(text, (k,), "relation", words, name)


def _extreme_candidates(things: Sequence[Thing]) -> Iterator[Candidate]:
    """Yields 'the leftmost star', 'the largest blue shape'."""
    for k, thing in enumerate(things):
        if not _has_lookalikes([k], things):
            continue
        for words in phrases_for(thing):
            distractors = [things[r] for r in find_matching(words, things) if r != k]
            if not distractors or words.size:
                continue
            for name, direction in _EXTREMES.items():
                if all(_offset(thing, distractor, direction)[0] > RELATION_GAP for distractor in distractors):
                    yield build_candidate(f"the {name} {words.phrase()}", (k,), "relation", words, name)
            if all(distractor.size != thing.size for distractor in distractors):
                name = "largest" if thing.size == "large" else "smallest"
                yield build_candidate(f"the {name} {words.phrase()}", (k,), "relation", words, name)


def absent_phrases(things: Sequence[Thing], kinds: Kinds) -> Iterator[Candidate]:
    """Yields expressions that match no object, although some objects have the colour and others the shape, or everything but
    the size."""
    colors = sorted({thing.color for thing in things})
    shapes = sorted({thing.shape for thing in things})
    for color, shape in itertools.product(colors, shapes):
        if (color, shape) in kinds.allowed and not find_matching(Words(None, color, shape), things):
            for size in (None, None, "small", "large"):
                words = Words(size, color, shape)
                yield build_candidate(f"the {words.phrase()}", (), "absent", words, words.kind)
    for thing in things:
        for words in (Words(size, color, thing.shape) for size in ("small", "large") for color in (None, thing.color)):
            if not find_matching(words, things):
                yield build_candidate(f"the {words.phrase()}", (), "absent", words, words.kind)


def tests_focus(candidate: Candidate, things: Sequence[Thing], kinds: Kinds) -> bool:
    """Returns whether an expression tests the focus of its split. A held-out word must be mentioned, otherwise a model could
    answer without knowing it. For unseen pairs of known words, colour and shape must be mentioned."""
    if not kinds.focus:
        return True
    words = candidate.words
    new_words = {word for pair in kinds.focus for word in pair} - {word for pair in kinds.known for word in pair}
    if new_words:
        return words.color in new_words or words.shape in new_words
    if candidate.expression.targets:
        return any(things[t].pair in kinds.focus for t in candidate.expression.targets)
    return (words.color, words.shape) in kinds.focus


def write_expressions(scene: Scene, groups: Sequence[str], kinds: Kinds, rng: np.random.Generator) -> list[Expression] | None:
    """Returns one expression for each group, with different texts; None if the scene does not support all groups."""
    things = scene.things
    candidates: dict[str, list[Candidate]] = {}
    for group in set(groups):
        generated = {
            "attribute": lambda: attribute_candidates(things),
            "relation": lambda: itertools.chain(_relation_candidates(things), _extreme_candidates(things)),
            "plural": lambda: _plural_candidates(things),
            "absent": lambda: absent_phrases(things, kinds),
        }[group]()
        candidates[group] = [candidate for candidate in generated if tests_focus(candidate, things, kinds)]
    chosen: dict[str, Expression] = {}
    for group in groups:
        remaining = [candidate for candidate in candidates[group] if candidate.expression.text not in chosen]
        if not remaining:
            return None
        expression = choose_candidate(remaining, rng)
        chosen[expression.text] = expression
    return list(chosen.values())


def choose_candidate(candidates: list[Candidate], rng: np.random.Generator) -> Expression:
    """Samples a form, then an expression of this form, so that forms with many candidates do not dominate."""
    forms: dict[str, list[Expression]] = {}
    for candidate in candidates:
        forms.setdefault(candidate.form, []).append(candidate.expression)
    names = sorted(forms)
    weights = np.array([_FORM_WEIGHTS.get(name, 1) for name in names], np.float64)
    return pick_one(rng, forms[names[int(rng.choice(len(names), p=weights / weights.sum()))]])
