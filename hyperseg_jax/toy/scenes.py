"""Scenes: the placement and visibility of objects."""

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
"""Minimum visible share of an object."""

CLOSENESS = {"default": 0.78, "hard": 0.55}
"""Minimum distance of two centers, relative to the sum of the radii."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """A coloured shape. x, y: center, diameter: extent, in pixels; angle: radians."""

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
        """The category name."""
        return f"{self.color} {self.shape}"

    def resembles(self, other: Thing) -> bool:
        """Returns whether two objects share colour or shape."""
        return self.color == other.color or self.shape == other.shape


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene. things: from the farthest to the nearest. coverages: float [N, SIZE, SIZE], without occlusion."""

    background: str
    things: tuple[Thing, ...]
    coverages: np.ndarray

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [N, SIZE, SIZE]: the visible pixels of each object, without overlaps."""
        visible_masks = self.coverages >= 0.5
        occluded = np.zeros((SIZE, SIZE), bool)
        for mask in visible_masks[::-1]:
            mask &= ~occluded
            occluded |= mask
        return visible_masks

    @property
    def visible(self) -> np.ndarray:
        """[N]: the visible share of each object; 1 outside the image."""
        total = (self.coverages >= 0.5).sum((1, 2))
        return np.where(total > 0, self.masks.sum((1, 2)) / np.maximum(total, 1), 1.0)


@dataclasses.dataclass(frozen=True)
class Kinds:
    """The coloured shapes, (color, shape), of a split. known: those of the training images. focus: those that the split tests
    (empty: no preference)."""

    known: tuple[tuple[str, str], ...]
    focus: frozenset[tuple[str, str]] = frozenset()

    @property
    def allowed(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.known) | self.focus


KNOWN = Kinds(KNOWN_PAIRS)
COMPOSITIONAL = Kinds(KNOWN_PAIRS, UNSEEN_PAIRS)
HELD_BACK = Kinds(KNOWN_PAIRS, HELD_BACK_PAIRS)


def pick_one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Returns a random element of a sequence."""
    return choices[int(rng.integers(len(choices)))]


def sample_pairs(kinds: Kinds, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Samples the coloured shapes of a scene from few colours and shapes, so that they resemble each other."""
    first = pick_one(rng, sorted(kinds.focus) if kinds.focus else kinds.known)
    pool = sorted(kinds.allowed)
    colors, shapes = {first[0]}, {first[1]}
    while len(colors) < 2 + (count > 4) * int(rng.integers(2)):
        colors.add(pick_one(rng, pool)[0])
    while len(shapes) < 2 + (count > 3) * int(rng.integers(2)):
        shapes.add(pick_one(rng, pool)[1])
    candidates = [pair for pair in pool if pair[0] in colors and pair[1] in shapes]
    return [first] + [pick_one(rng, candidates) for _ in range(count - 1)]


def place_objects(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> list[Thing] | None:
    """Places `count` objects at free positions; returns None if the image gets too crowded."""
    things: list[Thing] = []
    pairs = sample_pairs(kinds, count, rng)
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


def build_scene(things: list[Thing], background: str) -> Scene:
    """Builds a Scene from objects and a background."""
    coverages = [drawing.pixel_coverage(thing.shape, thing.x, thing.y, thing.diameter, thing.angle) for thing in things]
    return Scene(background, tuple(things), np.stack(coverages))


def sample_scene(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> Scene | None:
    """Samples a scene of `count` sufficiently visible objects; None if the draw is rejected."""
    things = place_objects(kinds, count, level, rng)
    if things is None:
        return None
    scene = build_scene(things, pick_one(rng, list(BACKGROUNDS)))
    return scene if scene.visible.min() >= MIN_VISIBLE[level] else None


def render_scene(scene: Scene, level: str, rng: np.random.Generator) -> np.ndarray:
    """Renders a scene, uint8 [SIZE, SIZE, 3]."""
    canvas = drawing.paint_background(scene.background, level, rng)
    for thing, covered in zip(scene.things, scene.coverages, strict=True):
        drawing.paint_thing(canvas, covered, thing.color, level, rng)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
