"""Referring expressions that are true, unambiguous and not to be guessed without reading them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hyperseg_jax.toy.scenes import Kinds, Scene, Thing, pick
from hyperseg_jax.toy.vocabulary import plural

DECK = ("attribute",) * 40 + ("relation",) * 38 + ("plural",) * 11 + ("absent",) * 11
"""Groups are dealt from this deck, shuffled, before the scene is drawn: so hard groups are not crowded out, and any
hundred expressions in a row have these shares."""

LOOKALIKES = 2
"""Others that share colour or shape with the target, at least."""

RELATION_GAP = 16.0
"""Pixels by which a relation must hold for the target; every other candidate must miss it by MISS_GAP."""
MISS_GAP = 4.0

_DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_EXTREMES = {"leftmost": (-1, 0), "rightmost": (1, 0), "topmost": (0, -1), "bottommost": (0, 1)}
_FORM_WEIGHTS = {"cs": 5, "s": 3, "c": 2, "zs": 2} | dict.fromkeys(_DIRECTIONS, 2)
"""By what is said (Words.kind), or by relation; 1 where it is not listed."""


@dataclasses.dataclass(frozen=True)
class Expression:
    """text names the things whose indices are in targets (none for group "absent")."""

    text: str
    targets: tuple[int, ...]
    group: str


@dataclasses.dataclass(frozen=True)
class Words:
    """A noun phrase; None where it does not say."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    @property
    def kind(self) -> str:
        """Which of size (z), colour (c) and shape (s) are said: "cs", "zs", ..."""
        return "".join(k for k, said in zip("zcs", (self.size, self.color, self.shape), strict=True) if said)

    def fit(self, thing: Thing) -> bool:
        return all(
            said in (None, real)
            for said, real in ((self.size, thing.size), (self.color, thing.color), (self.shape, thing.shape))
        )

    def phrase(self, many: bool = False) -> str:
        """'small red ring', 'blue shapes'."""
        noun = self.shape or "shape"
        return " ".join(word for word in (self.size, self.color, plural(noun) if many else noun) if word)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A true expression, what it says of its target, and its form (the forms of a group are drawn evenly)."""

    expression: Expression
    words: Words
    form: str


def candidate(text: str, targets: tuple[int, ...], group: str, words: Words, form: str) -> Candidate:
    """A candidate from the fields of its expression."""
    return Candidate(Expression(text, targets, group), words, form)


def matching(words: Words, things: Sequence[Thing]) -> list[int]:
    """Indices of the things that the words fit."""
    return [k for k, thing in enumerate(things) if words.fit(thing)]


def phrases_for(thing: Thing) -> list[Words]:
    """Every phrase that is true of a thing, from "ring" to "large red ring" and the bare "shape"."""
    return [
        Words(size, color, shape)
        for shape, color, size in itertools.product((thing.shape, None), (thing.color, None), (None, thing.size))
    ]


def lookalikes(targets: Sequence[int], things: Sequence[Thing]) -> int:
    """How many other things share colour or shape with one of the targets."""
    return sum(any(thing.resembles(things[t]) for t in targets) for k, thing in enumerate(things) if k not in targets)


def _fair(targets: Sequence[int], things: Sequence[Thing]) -> bool:
    return lookalikes(targets, things) >= LOOKALIKES


def attributes(things: Sequence[Thing]) -> Iterator[Candidate]:
    """'the red ring', 'the small star': whatever fits one thing alone."""
    for k, thing in enumerate(things):
        if not _fair([k], things):
            continue
        for words in phrases_for(thing):
            if words.kind not in ("", "z") and matching(words, things) == [k]:
                yield candidate(f"the {words.phrase()}", (k,), "attribute", words, words.kind)


def _plurals(things: Sequence[Thing]) -> Iterator[Candidate]:
    """'all circles', 'the blue shapes'."""
    for words in dict.fromkeys(words for thing in things for words in phrases_for(thing)):
        targets = matching(words, things)
        if words.kind not in ("", "z") and len(targets) >= 2 and _fair(targets, things):
            for opening in ("all", "the"):
                yield candidate(f"{opening} {words.phrase(many=True)}", tuple(targets), "plural", words, words.kind)


def _offset(thing: Thing, other: Thing, direction: tuple[int, int]) -> tuple[float, float]:
    """How far a thing lies from another along a direction, and across it, in pixels."""
    dx, dy = thing.x - other.x, thing.y - other.y
    return dx * direction[0] + dy * direction[1], abs(dx * direction[1]) + abs(dy * direction[0])


def _relations(things: Sequence[Thing]) -> Iterator[Candidate]:
    """'the ring left of the red square': one ring is, clearly, and another ring is not."""
    anchors = [
        (k, words)
        for k, thing in enumerate(things)
        for words in phrases_for(thing)
        if words.kind in ("s", "c", "cs") and matching(words, things) == [k]
    ]
    for k, thing in enumerate(things):
        if not _fair([k], things):
            continue
        for words in phrases_for(thing):
            rivals = [r for r in matching(words, things) if r != k]
            if not rivals or words.size:
                continue
            for (anchor, anchor_words), (name, direction) in itertools.product(anchors, _DIRECTIONS.items()):
                if anchor == k:
                    continue
                along, across = _offset(thing, things[anchor], direction)
                missed = all(
                    rival == anchor or _offset(things[rival], things[anchor], direction)[0] < -MISS_GAP for rival in rivals
                )
                if along > RELATION_GAP and along >= across and missed and rivals != [anchor]:
                    text = f"the {words.phrase()} {name} the {anchor_words.phrase()}"
                    yield candidate(text, (k,), "relation", words, name)


def _extremes(things: Sequence[Thing]) -> Iterator[Candidate]:
    """'the leftmost star', 'the largest blue shape'."""
    for k, thing in enumerate(things):
        if not _fair([k], things):
            continue
        for words in phrases_for(thing):
            rivals = [things[r] for r in matching(words, things) if r != k]
            if not rivals or words.size:
                continue
            for name, direction in _EXTREMES.items():
                if all(_offset(thing, rival, direction)[0] > RELATION_GAP for rival in rivals):
                    yield candidate(f"the {name} {words.phrase()}", (k,), "relation", words, name)
            if all(rival.size != thing.size for rival in rivals):
                name = "largest" if thing.size == "large" else "smallest"
                yield candidate(f"the {name} {words.phrase()}", (k,), "relation", words, name)


def absents(things: Sequence[Thing], kinds: Kinds) -> Iterator[Candidate]:
    """Nothing fits, though something has the colour and something else the shape, or all but the size."""
    colors = sorted({thing.color for thing in things})
    shapes = sorted({thing.shape for thing in things})
    for color, shape in itertools.product(colors, shapes):
        if (color, shape) in kinds.allowed and not matching(Words(None, color, shape), things):
            for size in (None, None, "small", "large"):
                words = Words(size, color, shape)
                yield candidate(f"the {words.phrase()}", (), "absent", words, words.kind)
    for thing in things:
        for words in (Words(size, color, thing.shape) for size in ("small", "large") for color in (None, thing.color)):
            if not matching(words, things):
                yield candidate(f"the {words.phrase()}", (), "absent", words, words.kind)


def in_focus(candidate: Candidate, things: Sequence[Thing], kinds: Kinds) -> bool:
    """Whether an expression is about what its split is about.

    A held-back word must be said, else a model could answer without knowing it; of an unseen pair both words are known.
    """
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
    """One expression for each group, no text twice; None where the scene has too little for them."""
    things = scene.things
    candidates: dict[str, list[Candidate]] = {}
    for group in set(groups):
        found = {
            "attribute": lambda: attributes(things),
            "relation": lambda: itertools.chain(_relations(things), _extremes(things)),
            "plural": lambda: _plurals(things),
            "absent": lambda: absents(things, kinds),
        }[group]()
        candidates[group] = [candidate for candidate in found if in_focus(candidate, things, kinds)]
    chosen: dict[str, Expression] = {}
    for group in groups:
        left = [candidate for candidate in candidates[group] if candidate.expression.text not in chosen]
        if not left:
            return None
        expression = choose(left, rng)
        chosen[expression.text] = expression
    return list(chosen.values())


def choose(candidates: list[Candidate], rng: np.random.Generator) -> Expression:
    """Draws the form first and then the expression, so that forms with many candidates do not take over."""
    forms: dict[str, list[Expression]] = {}
    for candidate in candidates:
        forms.setdefault(candidate.form, []).append(candidate.expression)
    names = sorted(forms)
    weights = np.array([_FORM_WEIGHTS.get(name, 1) for name in names], np.float64)
    return pick(rng, forms[names[int(rng.choice(len(names), p=weights / weights.sum()))]])
