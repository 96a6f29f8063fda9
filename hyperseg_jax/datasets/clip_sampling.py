"""Which frames of a video a clip takes, by the published recipes. Pure: a random generator in, numbers of frames out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from hyperseg_jax.errors import UserError

T = TypeVar("T")

MAX_TRIES = 200
"""Draws for a clip whose key frame shows something (InstructSeg)."""
REACH = {"stride": 3, "around": 10, "jump": 9}
"""The rules, and the reach of each: largest stride; frames on either side (HyperSeg's mapper); largest jump (InstructSeg)."""
SHORTEST_JUMP = 2
REVERSED = 0.3
"""InstructSeg: the chance that a clip runs backwards."""


def even_stride(length: int, count: int, rng: np.random.Generator, max_stride: int = 3) -> np.ndarray:
    """int [count]: evenly spaced by 1..max_stride, from a place drawn at random; a shorter video repeats its last frame."""
    longest = max(1, (length - 1) // max(1, count - 1))
    stride = int(rng.integers(1, min(max_stride, longest) + 1))
    start = int(rng.integers(max(1, length - stride * (count - 1))))
    return np.minimum(start + stride * np.arange(count), length - 1)


def around_random_frame(length: int, count: int, rng: np.random.Generator, reach: int = 10) -> np.ndarray:
    """int [count], ascending: a frame drawn at random and others, all different, at most reach before or after it."""
    middle = int(rng.integers(length))
    near = np.arange(max(0, middle - reach), min(length, middle + reach + 1))
    others = rng.permutation(near[near != middle])[: count - 1]
    return _pad_with_last(np.sort(np.append(others, middle)), count)


def random_jumps(length: int, count: int, rng: np.random.Generator, max_jump: int = 9, reverse: float = REVERSED) -> np.ndarray:
    """int [count]: InstructSeg's training clip. One frame, then again and again one that is at most a jump (drawn once, from
    2..max_jump) from any taken so far; in order of time, or backwards with the chance `reverse`. The key frame is the middle
    one, number count // 2."""
    jump = min(length, int(rng.integers(SHORTEST_JUMP, max_jump + 1)))
    taken = [int(rng.integers(length))]
    while len(taken) < min(count, length):
        near = {t for seen in taken for t in range(max(0, seen - jump), min(length, seen + jump + 1))}
        taken.append(int(rng.choice(sorted(near.difference(taken)))))
    times = _pad_with_last(np.sort(taken), count)
    return times[::-1] if rng.random() < reverse else times


def _pad_with_last(times: np.ndarray, count: int) -> np.ndarray:
    """Too few frames, the last repeated."""
    return np.append(times, np.repeat(times[-1:], count - len(times)))


def key_first(times: np.ndarray) -> np.ndarray:
    """The frames of a training clip as InstructSeg's language branch takes them: the key (middle) frame, then the others."""
    key = len(times) // 2
    return np.concatenate([times[key : key + 1], times[:key], times[key + 1 :]])


def references_of(current: int, length: int, count: int) -> list[int]:
    """The frames that frame `current` of a video refers to at evaluation (InstructSeg): half of them before, half after, the
    window shifted inwards at either end of the video; ascending, without the frame itself.

    A video of `count` frames or fewer has all its others, and repeats the last of them (the released code fails there); one of
    a single frame refers to itself.
    """
    if length <= count:
        others = [t for t in range(length) if t != current] or [current]
        return (others + others[-1:] * count)[:count]
    start = min(max(0, current - count // 2), length - 1 - count)
    return [t for t in range(start, start + count + 1) if t != current]


def with_references(frames: Iterable[T], count: int) -> Iterator[tuple[T, list[T]]]:
    """For each frame of a stream, the frame and the `count` that references_of names; holds no more than count + 1 frames."""
    half = count // 2
    held: list[T] = []
    first = current = 0  # the numbers of held[0] and of the next frame to be given
    for frame in frames:
        if len(held) > count:
            held, first = held[1:], first + 1
        held.append(frame)
        while first + len(held) > max(0, current - half) + count:  # what comes later changes nothing for this one
            yield _frame_with_references(held, first, current, first + len(held), count)
            current += 1
    length = first + len(held)
    for late in range(current, length):
        yield _frame_with_references(held, first, late, length, count)


def _frame_with_references(held: list[T], first: int, current: int, length: int, count: int) -> tuple[T, list[T]]:
    return held[current - first], [held[t - first] for t in references_of(current, length, count)]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a reader takes a clip out of a video.

    frames: this many; None takes all of them, in order. rule: one of REACH. reach: what the rule's own number is replaced by.
    """

    frames: int | None = None
    rule: str = "stride"
    reach: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in REACH:
            raise UserError(f"sampling={self.rule!r} is unknown; choose one of {', '.join(REACH)}")
        for name, value in (("frames", self.frames), ("reach", self.reach)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value} is too few; give at least 1")
        if self.rule == "jump" and self._reach < SHORTEST_JUMP:
            raise UserError(f"reach={self.reach} is too few for sampling='jump'; give at least {SHORTEST_JUMP}")

    @property
    def _reach(self) -> int:
        return REACH[self.rule] if self.reach is None else self.reach

    @property
    def key(self) -> int:
        """The place in a clip of the frame that must show something: the middle one of a clip of jumps, else the first."""
        return (self.frames or 0) // 2 if self.rule == "jump" else 0

    def frame_indices(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """int [frames], numbers of frames of a video of `length`."""
        if self.frames is None:
            return np.arange(length)
        rule = {"stride": even_stride, "around": around_random_frame, "jump": random_jumps}[self.rule]
        return rule(length, self.frames, rng, self._reach)

    def frame_indices_showing(
        self, length: int, rng: np.random.Generator, shows: Callable[[int], bool], key: int | None = None
    ) -> np.ndarray:
        """The first of at most MAX_TRIES draws whose key frame shows something, else the last of them.

        shows: says so of a frame, by its number; asked once a frame. key: the place in the clip, self.key by default.
        """
        place, told = self.key if key is None else key, {}
        for _ in range(MAX_TRIES):
            times = self.frame_indices(length, rng)
            t = int(times[place])
            if t not in told:
                told[t] = shows(t)
            if told[t] or self.frames is None:
                break
        return times
