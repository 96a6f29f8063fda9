"""EntityScores counts what is missed, repeated or named wrongly."""

import numpy as np
import pytest

from hyperseg_jax.metrics import EntityScores

SIZE = 10, 10


def rows(*ranges):
    masks = np.zeros((len(ranges), *SIZE), bool)
    for mask, (start, stop) in zip(masks, ranges, strict=True):
        mask[start:stop] = True
    return masks


TARGET, LABELS = rows((0, 4), (4, 8), (8, 10), (0, 0)), (0, 1, 0, 2)  # the last one is empty


def scores(predicted, labels, written=None, ignore=None):
    accumulator = EntityScores()
    accumulator.update(predicted, labels, TARGET, LABELS, ignore, written)
    return accumulator.compute()


def test_the_truth_misses_nothing():
    found = scores(TARGET[:3], LABELS[:3], written=(0, 1))
    assert [name for name, score in found.items() if score == 1] == ["class_accuracy", "name_precision", "name_recall"]
    assert [name for name, score in found.items() if score == 0] == ["missed", "duplicated", "repeated_names"]


def test_missed_repeated_and_wrong():
    """One target is matched with the wrong class, one is missed, and one is found twice, the second time in part."""
    predicted = rows((0, 4), (4, 7), (7, 8), (9, 9))
    found = scores(predicted, (1, 1, 1, 0))
    assert found == {"missed": pytest.approx(1 / 3), "duplicated": 0.25, "class_accuracy": 0.5}


def test_names():
    found = scores(TARGET[:1], (0,), written=(0, 0, 2, None))
    assert scores(TARGET[:1], (0,), written=(None, None, 0))["repeated_names"] == 0, "two names outside the class list"
    assert found["name_precision"] == 0.5 and found["repeated_names"] == 0.25 and found["name_recall"] == 0.5
    assert scores(TARGET[:1], (0,), written=())["name_precision"] == 0


def test_ignored_pixels_do_not_count():
    ignore = rows((4, 10))[0]
    assert scores(TARGET[:1], (0,), ignore=ignore)["missed"] == 0


def test_no_prediction_and_sums():
    accumulator = EntityScores()
    accumulator.update(rows(), (), TARGET, LABELS)
    assert accumulator.compute() == {"missed": 1, "duplicated": 0, "class_accuracy": 0}
    other = EntityScores.from_state(accumulator.state())
    other.merge(accumulator)
    assert other.compute() == accumulator.compute() and "name_recall" in other.names()
    assert EntityScores().compute() == {"missed": 0, "duplicated": 0, "class_accuracy": 0}
