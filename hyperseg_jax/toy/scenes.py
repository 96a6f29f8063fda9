"""Scenes: which things stand where, and what is seen of each."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from hyperseg_jax.toy import drawing
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, DIAMETERS, HELD_BACK_PAIRS, KNOWN_PAIRS, SIZE, UNSEEN_PAIRS

T = TypeVar("T")

LEVELS = ("default", "hard")
MIN_VISIBLE = {"default": 0.6, "hard": 0.4}
"""The least share of a thing that others leave uncovered."""

CLOSENESS = {"default": 0.78, "hard": 0.55}
"""The least distance of two centres, over the sum of their radii."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """One coloured shape. x, y: centre, diameter: extent, in pixels; angle: radians."""

    color: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float
    angle: float

    @property
    def pair(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def name(self) -> str:
        """Its category."""
        return f"{self.color} {self.shape}"

    def resembles(self, other: Thing) -> bool:
        """Whether the two could be mistaken for each other by a reader of half the words."""
        return self.color == other.color or self.shape == other.shape


@dataclasses.dataclass(frozen=True)
class Scene:
    """things: from the farthest to the nearest. coverages: float [N, SIZE, SIZE], each thing as if alone."""

    background: str
    things: tuple[Thing, ...]
    coverages: np.ndarray

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [N, SIZE, SIZE]: the pixels of each thing that are seen; no two overlap."""
        seen = self.coverages >= 0.5
        nearer = np.zeros((SIZE, SIZE), bool)
        for mask in seen[::-1]:
            mask &= ~nearer
            nearer |= mask
        return seen

    @property
    def visible(self) -> np.ndarray:
        """[N]: the share of each thing that is seen."""
        return self.masks.sum((1, 2)) / np.maximum((self.coverages >= 0.5).sum((1, 2)), 1)


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Which coloured shapes a split may show. focus: those it is about (empty: no preference)."""

    known: tuple[tuple[str, str], ...]
    focus: frozenset[tuple[str, str]] = frozenset()

    @property
    def allowed(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.known) | self.focus


KNOWN = Kinds(KNOWN_PAIRS)
COMPOSITIONAL = Kinds(KNOWN_PAIRS, UNSEEN_PAIRS)
HELD_BACK = Kinds(KNOWN_PAIRS, HELD_BACK_PAIRS)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of a sequence."""
    return choices[int(rng.integers(len(choices)))]


def _pairs(kinds: Kinds, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """The coloured shapes of a scene: few colours and few shapes, so that they resemble each other."""
    first = pick(rng, sorted(kinds.focus) if kinds.focus else kinds.known)
    pool = sorted(kinds.allowed)
    colors, shapes = {first[0]}, {first[1]}
    while len(colors) < 2 + (count > 4) * int(rng.integers(2)):
        colors.add(pick(rng, pool)[0])
    while len(shapes) < 2 + (count > 3) * int(rng.integers(2)):
        shapes.add(pick(rng, pool)[1])
    near = [pair for pair in pool if pair[0] in colors and pair[1] in shapes]
    return [first] + [pick(rng, near) for _ in range(count - 1)]


def place(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> list[Thing] | None:
    """`count` things at free places, or None where the image became too full."""
    things: list[Thing] = []
    pairs = _pairs(kinds, count, rng)
    for color, shape in (pairs[k] for k in rng.permutation(count)):
        crowded = sum(thing.size == "large" for thing in things) >= 3
        size = "small" if crowded or rng.random() < 0.5 else "large"
        low, high = DIAMETERS[size]
        for _ in range(30):
            diameter = low + (high - low) * rng.random()
            margin = 0.5 * diameter + 3
            x, y = margin + (SIZE - 2 * margin) * rng.random(2)
            if all(
                math.hypot(x - thing.x, y - thing.y) > CLOSENESS[level] * (diameter + thing.diameter) / 2 for thing in things
            ):
                angle = math.radians(14) * (2 * rng.random() - 1) * (rng.random() < 0.5)
                things.append(Thing(color, shape, size, float(x), float(y), float(diameter), float(angle)))
                break
        else:
            return None
    return things


def stage(things: list[Thing], background: str) -> Scene:
    """Puts things before a background."""
    coverages = [drawing.coverage(thing.shape, thing.x, thing.y, thing.diameter, thing.angle) for thing in things]
    return Scene(background, tuple(things), np.stack(coverages))


def sample(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> Scene | None:
    """A scene of `count` things that are all seen well enough, or None: draw again."""
    things = place(kinds, count, level, rng)
    if things is None:
        return None
    scene = stage(things, pick(rng, list(BACKGROUNDS)))
    return scene if scene.visible.min() >= MIN_VISIBLE[level] else None


def render(scene: Scene, level: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [SIZE, SIZE, 3]."""
    canvas = drawing.paint_background(scene.background, level, rng)
    for thing, covered in zip(scene.things, scene.coverages, strict=True):
        drawing.paint_thing(canvas, covered, thing.color, level, rng)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
