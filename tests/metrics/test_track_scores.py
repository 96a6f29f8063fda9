"""Identity switches: hand-made clips, an exhaustive search, and the state of the accumulator."""

import itertools

import numpy as np
import pytest

from hyperseg_jax.metrics.track_scores import MIN_IOU, TrackScores, count_switches

SIDE = 8


def spell(*rows):
    """Returns masks [N, T, 1, SIDE] from one text per mask: each letter is a frame, whose mask is the pixels from its place in
    the alphabet to 4 pixels further; "." is empty."""
    masks = np.zeros((len(rows), len(rows[0]), 1, 2 * SIDE), bool)
    for n, row in enumerate(rows):
        for t, letter in enumerate(row):
            if letter != ".":
                start = ord(letter) - ord("a")
                masks[n, t, 0, start : start + 4] = True
    return masks


@pytest.mark.parametrize(
    ("targets", "tracks", "switches"),
    [
        (("aaaa",), ("aaaa",), 0),
        (("aaaa",), ("aa..", "..aa"), 1),  # another track continues
        (("aaaa",), ("a.a.", ".a.a"), 3),
        (("a..a",), ("a..a",), 0),  # held through an occlusion
        (("a..a",), ("a...", "...a"), 1),  # lost in an occlusion
        (("aaaa",), ("a..a",), 0),  # missed for two frames
        (("abcd", "hgfe"), ("abfe", "hgcd"), 2),  # two objects cross, and their tracks are swapped
        (("aaaa",), ("aabb", "bbaa"), 0),  # keeps its track, whose IoU of 0.6 suffices, though the other fits better
        (("aaaa",), ("aacc", "bbaa"), 1),  # an IoU of 1/3 does not
        (("aaaa",), (), 0),
        ((), ("aaaa",), 0),
        (("aa..", "..aa"), ("aaaa",), 0),  # one track, first on one object, then on another that it covers for the first time
    ],
)
def test_switches_of_hand_made_clips(targets, tracks, switches):
    none = np.zeros((0, 4, 1, 2 * SIDE), bool)
    assert count_switches(spell(*tracks) if tracks else none, spell(*targets) if targets else none) == switches


def count_by_search(predicted, targets):
    """The same definition by trying all assignments of each frame, for at most as many targets as tracks."""
    last, switches = {}, 0
    for t in range(targets.shape[1]):
        pairs = {}
        for n, m in itertools.product(range(len(targets)), range(len(predicted))):
            both, either = (targets[n, t] & predicted[m, t]).sum(), (targets[n, t] | predicted[m, t]).sum()
            if both and both / either >= MIN_IOU:
                pairs[n, m] = both / either
        fixed = {}
        for n in sorted(last, key=lambda n: -pairs.get((n, last[n]), 0)):
            if (n, last[n]) in pairs and last[n] not in fixed.values():
                fixed[n] = last[n]
        free = [m for m in range(len(predicted)) if m not in fixed.values()]
        open_targets = [n for n in range(len(targets)) if n not in fixed]
        choices = itertools.permutations([*free, *[None] * len(open_targets)], len(open_targets))
        best = max(
            (dict(zip(open_targets, choice, strict=True)) for choice in choices),
            key=lambda found: sum(pairs.get(pair, 0) for pair in found.items()),
        )
        for n, m in [*fixed.items(), *((n, m) for n, m in best.items() if (n, m) in pairs)]:
            switches += last.get(n, m) != m
            last[n] = m
    return switches


def test_switches_equal_an_exhaustive_search():
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        masks = [spell(*("".join(rng.choice(list("aceg."), 6)) for _ in range(count))) for count in (2, 3)]
        wide = [np.repeat(each, 100, axis=-1) for each in masks]
        targets, tracks = (each ^ (rng.random(each.shape) < 0.02) for each in wide)  # no two IoUs are equal
        found.append(count_switches(tracks, targets))
        assert found[-1] == count_by_search(tracks, targets)
    assert len(set(found)) > 3


def test_switches_are_averaged_over_clips_without_crowds():
    scores, other = TrackScores(), TrackScores()
    swapped = spell("aa..", "..aa")
    scores.update("one", swapped, (0.9, 0.8), ("cat", "cat"), spell("aaaa"), ("cat",))
    other.update("two", swapped, (0.9, 0.8), ("cat", "cat"), spell("aaaa"), ("cat",), (True,))
    scores.merge(TrackScores.from_state(other.state()))
    result = scores.compute()
    assert result["switches"] == 0.5 and result["count"] == 2 and {*result} <= {*scores.names()}
    assert "switches" not in TrackScores().compute()


@pytest.mark.parametrize("damage", [{"one": -1}, {"one": True}, {"one": 0.5}, {}, {"other": 1}])
def test_damaged_switches_are_rejected(damage):
    scores = TrackScores()
    scores.update("one", spell("aaaa"), (0.9,), ("cat",), spell("aaaa"), ("cat",))
    with pytest.raises((ValueError, KeyError)):
        TrackScores.from_state(scores.state() | {"switches": damage})
