"""Clips: things that move evenly, cross and hide each other, and what can be said about them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hyperseg_jax.toy import drawing
from hyperseg_jax.toy.expressions import (
    Candidate,
    Expression,
    Words,
    absents,
    attributes,
    candidate,
    choose,
    in_focus,
    phrases_for,
)
from hyperseg_jax.toy.scenes import MIN_VISIBLE, Kinds, Scene, Thing, pick, place, stage
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, SIZE

FRAMES = (6, 7, 8)
SHARES = {"attribute": 0.35, "motion": 0.40, "absent": 0.10, "reasoning": 0.15}
DISTANCES = (48.0, 96.0)
"""Pixels that a thing moves over a whole clip."""

_HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclasses.dataclass(frozen=True)
class Clip:
    """scenes: one a frame, of the same things in the same order. headings: for each thing a word, or "" where it stays.
    distances: pixels that each thing moves over the clip."""

    scenes: tuple[Scene, ...]
    headings: tuple[str, ...]
    distances: tuple[float, ...]

    @property
    def things(self) -> tuple[Thing, ...]:
        return self.scenes[0].things

    @property
    def masks(self) -> np.ndarray:
        """bool [N, T, SIZE, SIZE]."""
        return np.stack([scene.masks for scene in self.scenes], axis=1)


def _journey(thing: Thing, rng: np.random.Generator) -> tuple[str, float]:
    """A heading and a distance that keep the thing in the image; ("", 0) where it stays."""
    if rng.random() < 0.35:
        return "", 0.0
    distance = DISTANCES[0] + (DISTANCES[1] - DISTANCES[0]) * rng.random()
    edge = thing.diameter / 2
    free = [
        name
        for name, (dx, dy) in _HEADINGS.items()
        if edge < thing.x + dx * distance < SIZE - edge and edge < thing.y + dy * distance < SIZE - edge
    ]
    return (pick(rng, free), distance) if free else ("", 0.0)


def sample(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> Clip | None:
    """A clip of `count` things, well seen in its first frame, or None: draw again."""
    things = place(kinds, count, level, rng)
    if things is None:
        return None
    background = pick(rng, list(BACKGROUNDS))
    first = stage(things, background)
    journeys = [_journey(thing, rng) for thing in things]
    if first.visible.min() < MIN_VISIBLE[level] or not any(heading for heading, _ in journeys):
        return None
    frames = pick(rng, FRAMES)
    scenes = [first]
    for t in range(1, frames):
        moved = []
        for thing, (heading, distance) in zip(things, journeys, strict=True):
            dx, dy = _HEADINGS.get(heading, (0, 0))
            way = distance * t / (frames - 1)
            moved.append(dataclasses.replace(thing, x=thing.x + dx * way, y=thing.y + dy * way))
        scenes.append(stage(moved, background))
    return Clip(tuple(scenes), tuple(heading for heading, _ in journeys), tuple(way for _, way in journeys))


def render(clip: Clip, level: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, SIZE, SIZE, 3]; background and textures stay the same over the clip."""
    background = drawing.paint_background(clip.scenes[0].background, level, rng)
    seeds = rng.integers(0, 2**32, size=len(clip.things))
    frames = []
    for scene in clip.scenes:
        canvas = background.copy()
        for thing, covered, seed in zip(scene.things, scene.coverages, seeds, strict=True):
            drawing.paint_thing(canvas, covered, thing.color, level, np.random.default_rng(seed))
        frames.append(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    return np.stack(frames)


def _motions(clip: Clip) -> Iterator[Candidate]:
    """'the circle moving right': one does, and another circle does not."""
    for k, thing in enumerate(clip.things):
        for words in phrases_for(thing):
            rivals = [r for r, other in enumerate(clip.things) if r != k and words.fit(other)]
            if words.size or not rivals or any(clip.headings[r] == clip.headings[k] for r in rivals):
                continue
            heading = clip.headings[k]
            text = f"the {words.phrase()} moving {heading}" if heading else f"the {words.phrase()} that stays still"
            yield candidate(text, (k,), "motion", words, heading or "still")


def _motionless(clip: Clip) -> Iterator[Candidate]:
    """'the ring moving left' where every ring goes elsewhere."""
    for thing, heading in itertools.product(clip.things, _HEADINGS):
        for words in phrases_for(thing):
            fitting = [clip.headings[r] for r, other in enumerate(clip.things) if words.fit(other)]
            if words.kind in ("s", "cs") and heading not in fitting:
                yield candidate(f"the {words.phrase()} moving {heading}", (), "absent", words, "motion")


def _reasoning(clip: Clip) -> Iterator[Candidate]:
    order = np.argsort(clip.distances)
    if clip.distances[order[-1]] > 1.3 * clip.distances[order[-2]]:
        text = "Which shape moves the farthest?"
        yield candidate(text, (int(order[-1]),), "reasoning", Words(), "farthest")
    if clip.headings.count("") == 1:
        text = "Which shape is the only one that does not move?"
        yield candidate(text, (clip.headings.index(""),), "reasoning", Words(), "still")
    least = np.stack([scene.visible for scene in clip.scenes]).min(axis=0)
    if np.sum(least < 0.5) == 1 and np.sum(least < 0.8) == 1:
        text = "Which shape passes behind another one?"
        yield candidate(text, (int(least.argmin()),), "reasoning", Words(), "behind")


def write_expressions(clip: Clip, groups: Sequence[str], kinds: Kinds, rng: np.random.Generator) -> list[Expression] | None:
    """One expression for each group of SHARES, no text twice; None where the clip has too little for them."""
    makers = {
        "attribute": lambda: attributes(clip.things),
        "motion": lambda: _motions(clip),
        "absent": lambda: itertools.chain(absents(clip.things, kinds), _motionless(clip)),
        "reasoning": lambda: _reasoning(clip),
    }
    chosen: dict[str, Expression] = {}
    for group in groups:
        left = [
            found
            for found in makers[group]()
            if found.expression.text not in chosen and (group == "reasoning" or in_focus(found, clip.things, kinds))
        ]
        if not left:
            return None
        expression = choose(left, rng)
        chosen[expression.text] = expression
    return list(chosen.values())
