"""Frame sampling of clips: the published recipes, reproducible by seed and index."""

import collections
import itertools

import numpy as np
import pytest

from hyperseg_jax.datasets.frame_sampling import (
    REACH,
    ReferenceFrames,
    Sampling,
    move_key_frame_first,
    sample_around_random_frame,
    sample_by_random_jumps,
    sample_with_even_stride,
)
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget, limits


def draws(rule, length, count, number=300, **options):
    return np.stack([rule(length, count, np.random.default_rng([7, k]), **options) for k in range(number)])


def test_uniform_clips_have_one_stride():
    times = draws(sample_with_even_stride, 30, 4)
    steps = np.diff(times, axis=1)
    assert set(steps[:, 0]) == {1, 2, 3} and (steps == steps[:, :1]).all()
    assert times.min() == 0 and times.max() == 29
    assert draws(sample_with_even_stride, 4, 3).max() == 3
    assert sample_with_even_stride(4, 6, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 3, 3]


def test_clips_around_a_frame():
    times = draws(sample_around_random_frame, 60, 3)
    assert (np.diff(times, axis=1) > 0).all() and (times[:, -1] - times[:, 0]).max() == 20
    assert times.min() == 0 and times.max() == 59
    assert (
        draws(sample_around_random_frame, 60, 3, reach=2)[:, -1] - draws(sample_around_random_frame, 60, 3, reach=2)[:, 0]
    ).max() == 4
    assert sample_around_random_frame(2, 4, np.random.default_rng(0)).tolist() == [0, 1, 1, 1]


def test_jumps_have_the_published_statistics():
    """400 clips of 5 out of 8 frames by the released code: keys 84, 115, 107, 94 times at frames 2..5; 28.75 % backwards."""
    times = draws(sample_by_random_jumps, 8, 5, 4000)
    keys = collections.Counter(times[:, 2].tolist())
    backwards = (np.diff(times, axis=1) < 0).all(1)
    assert (backwards | (np.diff(times, axis=1) > 0).all(1)).all() and abs(backwards.mean() - 0.3) < 0.03
    assert set(keys) == {2, 3, 4, 5}
    assert all(abs(keys[t] / 4000 - count / 400) < 0.06 for t, count in zip((2, 3, 4, 5), (84, 115, 107, 94), strict=True))
    ascending = np.sort(draws(sample_by_random_jumps, 200, 5), axis=1)
    assert np.diff(ascending, axis=1).max() <= 9 and np.diff(ascending, axis=1).max() >= 8
    assert np.diff(np.sort(draws(sample_by_random_jumps, 200, 5, max_jump=2), axis=1), axis=1).max() == 2
    assert sample_by_random_jumps(3, 5, np.random.default_rng(1), reverse=0).tolist() == [0, 1, 2, 2, 2]
    assert move_key_frame_first(np.array([7, 6, 5, 1, 0])).tolist() == [5, 7, 6, 1, 0]


def test_references_at_evaluation():
    """Rows of the released code's table."""
    rows = {
        (2, 3, 1): [0, 2],
        (2, 7, 0): [1, 2],
        (2, 7, 3): [2, 4],
        (2, 12, 11): [9, 10],
        (4, 5, 0): [1, 2, 3, 4],
        (4, 12, 0): [1, 2, 3, 4],
        (4, 12, 6): [4, 5, 7, 8],
        (4, 12, 10): [7, 8, 9, 11],
        (0, 3, 1): [],
    }
    for (count, length, current), expected in rows.items():
        assert ReferenceFrames(count).query(current, length) == (current, *expected)
    # The released code fails for shorter videos.
    assert ReferenceFrames(4).query(1, 3) == (1, 0, 2, 2, 2)
    assert ReferenceFrames(2).query(0, 1) == (0,)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6])
def test_streams_use_the_same_references(count):
    for length in range(20):
        references = ReferenceFrames(count)
        queries = list(references.queries(range(100, 100 + length)))
        numbers = [references.query(t, length) for t in range(length)]
        assert queries == [(each, [100 + t for t in each]) for each in numbers]


def test_streams_keep_only_a_window():
    class Frame:
        alive = 0

        def __init__(self):
            Frame.alive += 1

        def __del__(self):
            Frame.alive -= 1

    most = 0
    for _ in ReferenceFrames(4).queries(Frame() for _ in range(100)):
        most = max(most, Frame.alive)
    assert 5 <= most <= 7  # the window, and loop variables on both sides


def test_clips_with_references_begin_with_the_key_frame():
    for k in range(20):
        ordered = Sampling(5, "jump").sample_frame_indices(40, np.random.default_rng(k))
        clip = Sampling(5, "references").sample_frame_indices(40, np.random.default_rng(k))
        assert clip.tolist() == move_key_frame_first(ordered).tolist()
    for length in range(1, 5):
        clips = [Sampling(5, "references").sample_frame_indices(length, np.random.default_rng(k)).tolist() for k in range(40)]
        assert {clip[0] for clip in clips} == set(range(length))
        assert all(tuple(clip) == ReferenceFrames(4).query(clip[0], length) for clip in clips)
    shown = Sampling(5, "references").sample_frame_indices_showing(40, np.random.default_rng(0), lambda t: t in (20, 21))
    assert shown[0] in (20, 21)
    with pytest.raises(UserError, match="reach=1 is too few for sampling='references'"):
        Sampling(5, "references", 1)


def test_key_frames_are_not_empty():
    sampling = Sampling(5, "jump")
    times = [sampling.sample_frame_indices_showing(40, np.random.default_rng(k), lambda t: t in (20, 21)) for k in range(10)]
    assert all(t[2] in (20, 21) for t in times)
    requests = collections.Counter()
    assert len(sampling.sample_frame_indices_showing(40, np.random.default_rng(0), lambda t: requests.update([t]))) == 5
    assert max(requests.values()) == 1  # each mask is read once, and sampling terminates


def test_clips_are_reproducible():
    for rule in REACH:
        same = [Sampling(4, rule).sample_frame_indices(50, np.random.default_rng([3, 9])).tolist() for _ in range(2)]
        rest = [Sampling(4, rule).sample_frame_indices(50, np.random.default_rng([3, k])).tolist() for k in range(6)]
        assert same[0] == same[1] and len({tuple(times) for times in rest}) > 3
    assert Sampling().sample_frame_indices(5, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]


def test_invalid_sampling_options():
    for options, messages in (
        ({"rule": "fast"}, "choose one of stride, around, jump"),
        ({"frames": 0}, "frames=0 is too few"),
        ({"rule": "jump", "reach": 1}, "give at least 2"),
    ):
        with pytest.raises(UserError, match=messages):
            Sampling(**options)
    lengths = itertools.product(REACH, range(1, 6), range(1, 6))
    for rule, n, count in lengths:
        alone = rule == "references" and n == 1  # a single frame has no reference frames
        sampled = Sampling(count, rule).sample_frame_indices(n, np.random.default_rng(0))
        assert len(sampled) == (1 if alone else count), (rule, n, count)


def test_sampling_is_bounded_in_time():
    for field in ("frames", "reach"):
        with pytest.raises(UserError, match=f"{field}=1001 is too many; give at most 1000"):
            Sampling(**{"frames": 3, "rule": "jump", field: 1001})
    sampling, tries = Sampling(900, "jump", 1000), []
    with (
        budget.record_budget(),
        limits.temporary_limits(seconds=1e-3),
        pytest.raises(UserError, match="seconds of reading time"),
    ):
        sampling.sample_frame_indices_showing(100_000, np.random.default_rng(0), lambda t: tries.append(t))
    assert len(tries) < 10
