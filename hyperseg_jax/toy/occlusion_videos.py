"""Videos in which one object vanishes behind another and returns, and others cross, enter late or leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from hyperseg_jax.toy.scenes import MIN_VISIBLE, Kinds, Thing, build_scene, pick_one, sample_pairs
from hyperseg_jax.toy.videos import DISTANCES, HEADINGS, STATES, Video
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, DIAMETERS, SIZE

FRAMES = 12
COVERS = ("circle", "square")
"""Shapes without holes, which can hide others."""
ARRIVALS, STAYS = (3, 4, 5), (2, 3, 4)
"""Frames in which the hidden object arrives behind its cover, and numbers of frames until it goes on."""
ENTRIES, EXITS = (3, 4, 5, 6), (5, 6, 7, 8)
"""Frames in which the centre of an object is at the edge of the image when it enters, or leaves."""
SETTLED = 2
"""First and last frames of a video in which the objects of the image are sufficiently visible."""
REACH = 1.3
"""Maximum extent of a shape from its centre, over its radius."""


@dataclasses.dataclass(frozen=True)
class _Moving:
    """An object and its centres (x, y) in all frames. heading: a key of HEADINGS, "" if it stands. role: see Video.roles."""

    thing: Thing
    centres: Float64[np.ndarray, "FRAMES 2"]
    heading: str = ""
    role: str = ""

    def at(self, frame: int) -> Thing:
        x, y = self.centres[frame].tolist()
        return dataclasses.replace(self.thing, x=x, y=y)

    @property
    def distance(self) -> float:
        """The distance that its centre moves inside the image, in pixels."""
        inside = self.centres[((self.centres >= 0) & (self.centres <= SIZE)).all(1)]
        return float(np.hypot(*(inside[-1] - inside[0]))) if len(inside) else 0.0


def sample_video(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> Video | None:
    """Samples a video of `count` objects, at least three: one is hidden for some frames by another, one enters or leaves, and
    the others enter, leave, cross the image or stand. Returns None if the draw is rejected."""
    pairs = sample_pairs(kinds, count, rng)
    covers = [k for k, (_, shape) in enumerate(pairs) if shape in COVERS]
    if not covers:
        return None
    cover = _stand(_make_thing(pairs.pop(pick_one(rng, covers)), "large", rng), rng)
    moving = [_hide(_make_thing(pairs[0], "small", rng), cover.at(0), rng), cover]
    for k, pair in enumerate(pairs[1:]):
        thing = _make_thing(pair, pick_one(rng, list(DIAMETERS)), rng)
        behaviours = (_enter, _leave) if k == 0 else (_enter, _leave, _cross, _stand)
        moving.append(pick_one(rng, behaviours)(thing, rng))
    order = rng.permutation(count).tolist()  # from the farthest to the nearest; the hidden object is behind its cover
    if order.index(0) > order.index(1):
        order = [1 - k if k < 2 else k for k in order]
    return _build([moving[k] for k in order], level, pick_one(rng, list(BACKGROUNDS)))


def _build(moving: Sequence[_Moving], level: str, background: str) -> Video | None:
    """Returns the video of some objects; None if one is not visible enough at the start or end, or does not do what its role
    says."""
    is_settled = lambda scene: scene.visible.min() >= MIN_VISIBLE[level]
    scenes = {}
    for t in sorted(range(FRAMES), key=lambda t: min(t, FRAMES - 1 - t)):  # those that are rejected most often first
        scenes[t] = build_scene([each.at(t) for each in moving], background)
        if min(t, FRAMES - 1 - t) < SETTLED and not is_settled(scenes[t]):
            return None
    headings, roles = tuple(each.heading for each in moving), tuple(each.role for each in moving)
    ordered = tuple(scenes[t] for t in range(FRAMES))
    video = Video(ordered, headings, tuple(each.distance for each in moving), roles)
    states = np.array(STATES)[video.states]
    expected = {"hidden": ("visible", "visible"), "enters": ("outside", "visible"), "leaves": ("visible", "outside")}
    for row, role in zip(states, roles, strict=True):
        if (row[0], row[-1]) != expected.get(role, ("visible", "visible")):
            return None
        if ("occluded" in row) != (role == "hidden"):
            return None
    return video


def _make_thing(pair: tuple[str, str], size: str, rng: np.random.Generator) -> Thing:
    low, high = DIAMETERS[size]
    return Thing(*pair, size, 0.0, 0.0, float(low + (high - low) * rng.random()), 0.0)


def _inside(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Returns a random centre at which the object is inside the image."""
    margin = REACH * thing.diameter / 2
    return margin + (SIZE - 2 * margin) * rng.random(2)


def _go(points: Sequence[np.ndarray], times: Sequence[float]) -> np.ndarray:
    """Returns the centres in all frames of an object that is at some points at some times, and moves evenly in between."""
    x, y = np.stack(points, axis=1)
    frames = np.arange(FRAMES)
    return np.stack([np.interp(frames, times, x), np.interp(frames, times, y)], axis=1)


def _hide(thing: Thing, cover: Thing, rng: np.random.Generator) -> _Moving:
    """An object that moves behind a cover, stays there for some frames, and comes out on the other side."""
    heading, arrival, stay = pick_one(rng, list(HEADINGS)), pick_one(rng, ARRIVALS), pick_one(rng, STAYS)
    step = np.array(HEADINGS[heading]) * (thing.diameter + cover.diameter) / 2
    middle = np.array([cover.x, cover.y])
    before, after = middle - step * (1.1 + 0.3 * rng.random()), middle + step * (1.1 + 0.3 * rng.random())
    leaves = arrival + stay
    centres = _go([before, middle, middle, after], [0, arrival, leaves, min(leaves + arrival, FRAMES - SETTLED)])
    return _Moving(thing, centres, heading, "hidden")


def _edge_crossing(thing: Thing, heading: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a centre inside the image, and one outside from which the object reaches it along the heading."""
    inside, direction = _inside(thing, rng), np.array(HEADINGS[heading])
    edge = np.where(direction > 0, -REACH * thing.diameter / 2 - 1, SIZE + REACH * thing.diameter / 2 + 1)
    return inside, np.where(direction == 0, inside, edge)


def _enter(thing: Thing, rng: np.random.Generator) -> _Moving:
    heading = pick_one(rng, list(HEADINGS))
    inside, outside = _edge_crossing(thing, heading, rng)
    return _Moving(thing, _go([outside, inside], [pick_one(rng, ENTRIES) - 1, FRAMES - 1]), heading, "enters")


def _leave(thing: Thing, rng: np.random.Generator) -> _Moving:
    heading, opposite = pick_one(rng, [("left", "right"), ("right", "left"), ("up", "down"), ("down", "up")])
    inside, outside = _edge_crossing(thing, opposite, rng)
    return _Moving(thing, _go([inside, outside], [0, pick_one(rng, EXITS)]), heading, "leaves")


def _cross(thing: Thing, rng: np.random.Generator) -> _Moving:
    heading, start = pick_one(rng, list(HEADINGS)), _inside(thing, rng)
    distance = DISTANCES[0] + (DISTANCES[1] - DISTANCES[0]) * rng.random()
    return _Moving(thing, _go([start, start + np.array(HEADINGS[heading]) * distance], [0, FRAMES - 1]), heading)


def _stand(thing: Thing, rng: np.random.Generator) -> _Moving:
    return _Moving(thing, np.tile(_inside(thing, rng), (FRAMES, 1)))
