"""Instances of a class list over a video: identities, classes, bounded memory, colours."""

import numpy as np

from hyperseg_jax.results.drawing import COLOURS, draw_segments
from hyperseg_jax.results.instances import InstanceTracks
from hyperseg_jax.structs import Prediction

SIDE = 12


def make_candidates(*objects, dims=4):
    """Returns candidates, best first; each object is (number of its look, top row, class probabilities)."""
    objects = sorted(objects, key=lambda each: -max(each[2]))
    masks = np.zeros((len(objects), SIDE, SIDE), bool)
    for k, (_, top, _) in enumerate(objects):
        masks[k, top : top + 4, 2:10] = True
    classes = np.array([classes for *_, classes in objects], np.float32).reshape(-1, 2)
    looks = 9 * np.eye(dims, dtype=np.float32)[[look for look, *_ in objects]]
    return Prediction(masks, scores=tuple(classes.max(1).tolist()), classes=classes, embeddings=looks.reshape(-1, dims))


def test_identities_hold_through_an_occlusion():
    """Two objects swap places while one of them is hidden for two frames; a third enters late and is a new track."""
    tracks = InstanceTracks()
    frames = [
        ((0, 0, (0.9, 0.1)), (1, 8, (0.2, 0.8))),
        ((0, 4, (0.9, 0.1)),),
        ((0, 4, (0.9, 0.1)),),
        ((1, 0, (0.2, 0.95)), (0, 8, (0.9, 0.1)), (2, 4, (0.6, 0.3))),
    ]
    found = [tracks.update(make_candidates(*frame)) for frame in frames]
    assert [each.track_ids for each in found] == [(0, 1), (0,), (0,), (0, 1, 2)]
    assert found[3].labels == (0, 1, 0) and found[3].masks[:2, (8, 0), 5].diagonal().all()
    assert [segment.track_id for segment in found[3]] == [0, 1, 2]


def test_the_class_is_that_of_the_mean_probabilities():
    tracks = InstanceTracks()
    tracks.update(make_candidates((0, 0, (0.9, 0.1))))
    found = tracks.update(make_candidates((0, 0, (0.3, 0.5))))
    assert found.labels == (0,) and np.isclose(found.scores[0], 0.6)


def test_unlikely_candidates_are_not_followed():
    tracks = InstanceTracks()
    tracks.update(make_candidates((0, 0, (0.9, 0.1))))
    assert tracks.update(make_candidates((0, 0, (0.09, 0.05)))).track_ids == ()
    assert tracks.update(make_candidates((0, 0, (0.2, 0.05)))).track_ids == (0,)


def test_memory_is_bounded():
    """Beside an object that stays, each of 2,000 frames shows one that never returns: only those of the last 10 are kept."""
    tracks = InstanceTracks()
    for t in range(2_000):
        found = tracks.update(make_candidates((0, 0, (0.95, 0.1)), (1 + t % 49, 8, (0.9, 0.1)), dims=50))
        assert len(tracks) <= 11 and len(tracks._tracker.embeddings) == len(tracks)
    assert found.track_ids == (0, 2000)


def test_no_candidates():
    assert len(InstanceTracks().update(make_candidates())) == 0


def test_a_track_has_one_colour():
    """Alone in a frame as among others; masks without tracks are numbered."""
    frame, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((2, SIDE, SIDE), bool)
    mask[0, 1:6, 1:11], mask[1, 7:12, 1:11] = True, True
    of = lambda prediction: draw_segments(frame, prediction)[9, 5].tolist()
    half = (0.5 * COLOURS[5]).astype(int).tolist()
    assert of(Prediction(mask, track_ids=(2, 5))) == of(Prediction(mask[1:], track_ids=(5,))) == half
    assert of(Prediction(mask)) == (0.5 * COLOURS[1]).astype(int).tolist() and of(Prediction(mask[1:])) == [0, 0, 0]
