"""Videos of objects that move at constant speed and occlude each other, and expressions about them."""

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
    absent_phrases,
    attribute_candidates,
    build_candidate,
    choose_candidate,
    phrases_for,
    tests_focus,
)
from hyperseg_jax.toy.scenes import MIN_VISIBLE, Kinds, Scene, Thing, build_scene, pick_one, place_objects
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, SIZE

FRAMES = (6, 7, 8)
SHARES = {"attribute": 0.35, "motion": 0.40, "absent": 0.10, "reasoning": 0.15}
ROLE_QUESTIONS = {
    "hidden": "Which shape is hidden behind another one and returns?",
    "enters": "Which shape enters the image?",
    "leaves": "Which shape leaves the image?",
}
DISTANCES = (48.0, 96.0)
"""Range of the distance that an object moves over a video, in pixels."""

STATES = ("visible", "occluded", "outside")
"""States of an object in a frame: some pixel of it is visible; it is in the image, but all of it is hidden; or it is not."""
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclasses.dataclass(frozen=True)
class Video:
    """A video. scenes: one per frame, with the same objects in the same order. headings: direction of each object, "" if it
    does not move. distances: pixels that each object moves over the video. roles: what happens to each object, a key of
    ROLE_QUESTIONS or ""; () if the video has no roles."""

    scenes: tuple[Scene, ...]
    headings: tuple[str, ...]
    distances: tuple[float, ...]
    roles: tuple[str, ...] = ()

    @property
    def things(self) -> tuple[Thing, ...]:
        return self.scenes[0].things

    @property
    def masks(self) -> np.ndarray:
        """The visible masks of the objects, bool [N, T, SIZE, SIZE]."""
        return np.stack([scene.masks for scene in self.scenes], axis=1)

    @property
    def states(self) -> np.ndarray:
        """The state of each object in each frame, int [N, T], an index of STATES."""
        inside = np.stack([(scene.coverages >= 0.5).any((1, 2)) for scene in self.scenes], axis=1)
        return np.where(self.masks.any((2, 3)), 0, np.where(inside, 1, 2))


def _sample_motion(thing: Thing, rng: np.random.Generator) -> tuple[str, float]:
    """Draws a heading and a distance that keep the object inside the image; ("", 0) if it does not move."""
    if rng.random() < 0.35:
        return "", 0.0
    distance = DISTANCES[0] + (DISTANCES[1] - DISTANCES[0]) * rng.random()
    edge = thing.diameter / 2
    free = [
        name
        for name, (dx, dy) in HEADINGS.items()
        if edge < thing.x + dx * distance < SIZE - edge and edge < thing.y + dy * distance < SIZE - edge
    ]
    return (pick_one(rng, free), distance) if free else ("", 0.0)


def sample_video(kinds: Kinds, count: int, level: str, rng: np.random.Generator) -> Video | None:
    """Samples a video of `count` objects that are visible in the first frame; None if the draw is rejected."""
    things = place_objects(kinds, count, level, rng)
    if things is None:
        return None
    background = pick_one(rng, list(BACKGROUNDS))
    first = build_scene(things, background)
    motions = [_sample_motion(thing, rng) for thing in things]
    if first.visible.min() < MIN_VISIBLE[level] or not any(heading for heading, _ in motions):
        return None
    frames = pick_one(rng, FRAMES)
    scenes = [first]
    for t in range(1, frames):
        moved = []
        for thing, (heading, distance) in zip(things, motions, strict=True):
            dx, dy = HEADINGS.get(heading, (0, 0))
            offset = distance * t / (frames - 1)
            moved.append(dataclasses.replace(thing, x=thing.x + dx * offset, y=thing.y + dy * offset))
        scenes.append(build_scene(moved, background))
    return Video(tuple(scenes), tuple(heading for heading, _ in motions), tuple(offset for _, offset in motions))


def render_video(video: Video, level: str, rng: np.random.Generator) -> np.ndarray:
    """Renders a video, uint8 [T, H, W, 3]; the background and the textures do not change."""
    background = drawing.paint_background(video.scenes[0].background, level, rng)
    seeds = rng.integers(0, 2**32, size=len(video.things))
    frames = []
    for scene in video.scenes:
        canvas = background.copy()
        for thing, covered, seed in zip(scene.things, scene.coverages, seeds, strict=True):
            drawing.paint_thing(canvas, covered, thing.color, level, np.random.default_rng(seed))
        frames.append(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    return np.stack(frames)


def _motion_candidates(video: Video) -> Iterator[Candidate]:
    """Yields 'the circle moving right' if exactly one of several circles does."""
    for k, thing in enumerate(video.things):
        for words in phrases_for(thing):
            distractors = [r for r, other in enumerate(video.things) if r != k and words.describes(other)]
            if words.size or not distractors or any(video.headings[r] == video.headings[k] for r in distractors):
                continue
            heading = video.headings[k]
            text = f"the {words.phrase()} moving {heading}" if heading else f"the {words.phrase()} that stays still"
            yield build_candidate(text, (k,), "motion", words, heading or "still")


def _absent_motion_candidates(video: Video) -> Iterator[Candidate]:
    """Yields expressions without a target, such as 'the ring moving left' if there are rings, but none moves left."""
    for thing, heading in itertools.product(video.things, HEADINGS):
        for words in phrases_for(thing):
            fitting = [video.headings[r] for r, other in enumerate(video.things) if words.describes(other)]
            if words.kind in ("s", "cs") and heading not in fitting:
                yield build_candidate(f"the {words.phrase()} moving {heading}", (), "absent", words, "motion")


def _reasoning_candidates(video: Video) -> Iterator[Candidate]:
    """Yields questions about the motion or the occlusion of one object that have a unique answer."""
    order = np.argsort(video.distances)
    if video.distances[order[-1]] > 1.3 * video.distances[order[-2]]:
        text = "Which shape moves the farthest?"
        yield build_candidate(text, (int(order[-1]),), "reasoning", Words(), "farthest")
    if video.headings.count("") == 1:
        text = "Which shape is the only one that does not move?"
        yield build_candidate(text, (video.headings.index(""),), "reasoning", Words(), "still")
    for role, text in ROLE_QUESTIONS.items():
        if video.roles.count(role) == 1:
            yield build_candidate(text, (video.roles.index(role),), "reasoning", Words(), role)
    min_visible = np.stack([scene.visible for scene in video.scenes]).min(axis=0)
    if np.sum(min_visible < 0.5) == 1 and np.sum(min_visible < 0.8) == 1:
        text = "Which shape passes behind another one?"
        yield build_candidate(text, (int(min_visible.argmin()),), "reasoning", Words(), "behind")


def write_video_expressions(
    video: Video, groups: Sequence[str], kinds: Kinds, rng: np.random.Generator
) -> list[Expression] | None:
    """Returns one expression for each group, with different texts; None if the video does not support all groups."""
    generators = {
        "attribute": lambda: attribute_candidates(video.things),
        "motion": lambda: _motion_candidates(video),
        "absent": lambda: itertools.chain(absent_phrases(video.things, kinds), _absent_motion_candidates(video)),
        "reasoning": lambda: _reasoning_candidates(video),
    }
    chosen: dict[str, Expression] = {}
    for group in groups:
        options = [
            option
            for option in generators[group]()
            if option.expression.text not in chosen and (group == "reasoning" or tests_focus(option, video.things, kinds))
        ]
        if not options:
            return None
        expression = choose_candidate(options, rng)
        chosen[expression.text] = expression
    return list(chosen.values())
