"""Frame sampling by the published recipes: pure functions from a random generator to frame indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget

T = TypeVar("T")

MAX_TRIES = 200
"""Maximum attempts to sample a clip whose key frame shows a target (InstructSeg)."""
REACH = {"stride": 3, "around": 10, "jump": 9, "references": 9}
"""Sampling rules and their default reach: maximum stride; maximum distance to the random frame; maximum jump. "references" is
"jump" with the key frame first, followed by its reference frames."""
JUMPS = ("jump", "references")
SHORTEST_JUMP = 2
MOST = 1000
"""Maximum of frames and reach."""
REVERSED = 0.3
"""Probability of reversing a clip (InstructSeg)."""


def sample_with_even_stride(length: int, count: int, rng: np.random.Generator, max_stride: int = 3) -> np.ndarray:
    """Returns int [count]: frame indices with a random stride of 1..max_stride and a random start. Shorter videos repeat their
    last frame."""
    longest = max(1, (length - 1) // max(1, count - 1))
    stride = int(rng.integers(1, min(max_stride, longest) + 1))
    start = int(rng.integers(max(1, length - stride * (count - 1))))
    return np.minimum(start + stride * np.arange(count), length - 1)


def sample_around_random_frame(length: int, count: int, rng: np.random.Generator, reach: int = 10) -> np.ndarray:
    """Returns int [count], ascending: a random frame and other distinct frames at a distance of at most `reach`."""
    middle = int(rng.integers(length))
    near = np.arange(max(0, middle - reach), min(length, middle + reach + 1))
    others = rng.permutation(near[near != middle])[: count - 1]
    return _pad_with_last(np.sort(np.append(others, middle)), count)


def sample_by_random_jumps(
    length: int, count: int, rng: np.random.Generator, max_jump: int = 9, reverse: float = REVERSED
) -> np.ndarray:
    """Returns int [count]: frame indices of an InstructSeg training clip.

    Starts with a random frame and repeatedly adds a random frame within `jump` of any selected frame; jump is sampled once from
    2..max_jump. The result is ascending, or descending with probability `reverse`. The key frame is at count // 2.
    """
    jump = min(length, int(rng.integers(SHORTEST_JUMP, max_jump + 1)))
    selected = [int(rng.integers(length))]
    near, free = np.zeros(length, bool), np.ones(length, bool)
    while len(selected) < min(count, length):
        last = selected[-1]
        near[max(0, last - jump) : last + jump + 1], free[last] = True, False
        selected.append(int(rng.choice(np.flatnonzero(near & free))))
    times = _pad_with_last(np.sort(selected), count)
    return times[::-1] if rng.random() < reverse else times


def _pad_with_last(times: np.ndarray, count: int) -> np.ndarray:
    """Pads frame indices to `count` by repeating the last one."""
    return np.append(times, np.repeat(times[-1:], count - len(times)))


def move_key_frame_first(times: np.ndarray) -> np.ndarray:
    """Reorders the frames of a training clip of InstructSeg: the key (middle) frame first."""
    key = len(times) // 2
    return np.concatenate([times[key : key + 1], times[:key], times[key + 1 :]])


@dataclasses.dataclass(frozen=True)
class ReferenceFrames:
    """The reference frames of each queried frame of a video at evaluation (InstructSeg): half of `count` before and half after
    it, with the window shifted inwards at the ends of the video; ascending.

    A shorter video uses all other frames and repeats the last one (the released code fails there). A video of one frame has
    none.
    """

    count: int

    def query(self, frame: int, length: int) -> tuple[int, ...]:
        """Returns the index of a frame of a video, followed by those of its reference frames."""
        if length <= self.count:
            others = [t for t in range(length) if t != frame]
            return (frame, *(others + others[-1:] * self.count)[: self.count])
        start = min(max(0, frame - self.count // 2), length - 1 - self.count)
        return (frame, *(t for t in range(start, start + self.count + 1) if t != frame))

    def queries(self, frames: Iterable[T]) -> Iterator[tuple[tuple[int, ...], list[T]]]:
        """Yields, for each frame of a stream, the indices of its query and their frames. Keeps at most count + 1 frames."""
        half = self.count // 2
        buffer: list[T] = []
        first = current = 0  # indices of buffer[0] and of the next frame to yield
        for frame in frames:
            if len(buffer) > self.count:
                buffer, first = buffer[1:], first + 1
            buffer.append(frame)
            while first + len(buffer) > max(0, current - half) + self.count:  # later frames are no references of this one
                indices = self.query(current, first + len(buffer))
                yield indices, [buffer[t - first] for t in indices]
                current += 1
        length = first + len(buffer)
        for remaining in range(current, length):
            indices = self.query(remaining, length)
            yield indices, [buffer[t - first] for t in indices]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a reader samples the frames of a video.

    frames: number of frames; None takes all frames in order. rule: one of REACH. reach: overrides the default reach of the
    rule.
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
            if value is not None and value > MOST:
                raise UserError(f"{name}={value} is too many; give at most {MOST}")
        if self.has_key_frame and self._reach_or_default < SHORTEST_JUMP:
            raise UserError(f"reach={self.reach} is too few for sampling={self.rule!r}; give at least {SHORTEST_JUMP}")

    @property
    def _reach_or_default(self) -> int:
        return REACH[self.rule] if self.reach is None else self.reach

    @property
    def key_position(self) -> int:
        """The position of the key frame in a clip: the middle for rule "jump", else the first."""
        return (self.frames or 0) // 2 if self.rule == "jump" else 0

    @property
    def has_key_frame(self) -> bool:
        """Whether the key frame of a clip should show a target."""
        return self.rule in JUMPS

    def sample_frame_indices(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Returns int [frames]: sampled frame indices of a video with `length` frames; "references" of a shorter video as in
        evaluation, from a random key frame."""
        if self.frames is None:
            return np.arange(length)
        if self.rule == "references" and length < self.frames:
            return np.array(ReferenceFrames(self.frames - 1).query(int(rng.integers(length)), length))
        rules = {"stride": sample_with_even_stride, "around": sample_around_random_frame}
        times = rules.get(self.rule, sample_by_random_jumps)(length, self.frames, rng, self._reach_or_default)
        return move_key_frame_first(times) if self.rule == "references" else times

    def sample_frame_indices_showing(
        self, length: int, rng: np.random.Generator, shows: Callable[[int], bool], key: int | None = None
    ) -> np.ndarray:
        """Samples clips until the key frame shows a target; returns the last clip after MAX_TRIES attempts.

        shows: returns whether a frame index shows a target; called once per frame. key: position of the key frame in the clip,
        self.key_position by default. Raises UserError if the record takes longer than limits.seconds.
        """
        position, shown = self.key_position if key is None else key, {}
        for _ in range(MAX_TRIES):
            budget.check_time(f"sampling a clip of a video of {length} frames")
            times = self.sample_frame_indices(length, rng)
            t = int(times[position])
            if t not in shown:
                shown[t] = shows(t)
            if shown[t] or self.frames is None:
                break
        return times
