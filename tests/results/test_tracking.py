"""The tracker: identities over frames, new tracks, duplicates, backdrops and expiry."""

import numpy as np
import pytest

from hyperseg_jax.results.tracking import BACKDROP, DROPPED, Tracker, mask_iou


def make_squares(*corners, side=8, size=32):
    masks = np.zeros((len(corners), size, size), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return masks


A, B, C = 6 * np.eye(3, dtype=np.float32)


def test_identities_follow_the_embedding_not_the_position():
    tracker = Tracker()
    first = tracker.update(make_squares((0, 0), (16, 16)), np.array([0.9, 0.8]), np.stack([A, B]))
    second = tracker.update(make_squares((0, 0), (16, 16)), np.array([0.9, 0.8]), np.stack([B, A]))
    assert first.ids.tolist() == [0, 1] and second.ids.tolist() == [1, 0] and tracker.num_tracks == 2


def test_a_track_is_assigned_once():
    tracker = Tracker()
    tracker.update(make_squares((0, 0), (16, 16)), np.array([0.9, 0.8]), np.stack([A, B]))
    result = tracker.update(make_squares((0, 0), (16, 16)), np.array([0.9, 0.8]), np.stack([A, 0.98 * A]))
    assert result.ids.tolist() == [0, 2]


def test_new_tracks_need_a_higher_score_if_tracks_exist():
    tracker = Tracker()
    assert tracker.update(make_squares((0, 0)), np.array([0.3]), A[None]).ids.tolist() == [0]
    result = tracker.update(make_squares((0, 0), (16, 16), (16, 0)), np.array([0.9, 0.6, 0.3]), np.stack([A, B, C]))
    assert result.ids.tolist() == [0, 1, BACKDROP] and tracker.num_tracks == 2


def test_duplicates_are_removed_and_overlaps_are_not_backdrops():
    tracker = Tracker()
    masks = make_squares((0, 0), (0, 1), (0, 4), (20, 20))
    result = tracker.update(masks, np.array([0.9, 0.8, 0.1, 0.1]), np.stack([A, A, B, C]))
    assert result.kept.tolist() == [0, 2, 3]  # the second covers the first by 7/9
    assert result.ids.tolist() == [0, DROPPED, BACKDROP]


def test_moving_average_and_expiry():
    tracker, two = Tracker(forget_after=2, momentum=0.25), np.array([0.9, 0.8])
    tracker.update(make_squares((0, 0), (16, 16)), two, np.stack([A, B]))
    tracker.update(make_squares((0, 0), (16, 16)), two, np.stack([2 * A, B]))
    np.testing.assert_allclose(tracker.embeddings[0], 1.25 * A)
    for _ in range(2):
        tracker.update(make_squares((16, 16), (0, 16)), two, np.stack([B, C]))
    assert list(tracker.embeddings) == [1, 2]
    assert tracker.update(make_squares((0, 0), (16, 16)), two, np.stack([A, B])).ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.5 * A + 0.5 * B),
        ({"long_memory": True}, (0.9 * A + 0.3 * B) / 1.2),
        ({"long_memory": True, "recent_first": True}, (1.4 * A + 1.3 * B) / 2.7),
    ],
)
def test_track_similarity(options, expected):
    tracker = Tracker(match_score=0.0, **options)
    tracker.update(make_squares((0, 0)), np.array([0.9]), A[None])
    tracker.update(make_squares((0, 0)), np.array([0.3]), B[None])
    (track,) = tracker._tracks.values()
    np.testing.assert_allclose(tracker._memory_embedding(track), expected, rtol=1e-6)


@pytest.mark.parametrize(("prefer_long", "expected"), [(False, 1), (True, 0)])
def test_long_tracks_are_preferred(prefer_long, expected):
    tracker = Tracker(prefer_long=prefer_long)
    for _ in range(3):
        tracker.update(make_squares((0, 0)), np.array([0.9]), A[None])
    tracker.update(make_squares((0, 0), (16, 16)), np.array([0.9, 0.9]), np.stack([A, B]))
    assert tracker.num_tracks == 2
    mixed = 0.1 * A + 0.11 * B
    assert tracker.update(make_squares((8, 8)), np.array([0.9]), mixed[None]).ids.tolist() == [expected]


def test_an_empty_frame_and_empty_masks():
    tracker = Tracker()
    result = tracker.update(np.zeros((0, 4, 4), bool), np.zeros(0), np.zeros((0, 3)))
    assert not len(result.ids) and tracker.num_tracks == 0
    np.testing.assert_allclose(mask_iou(np.zeros((2, 4, 4), bool)), 1)
