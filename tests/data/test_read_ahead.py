"""read_in_thread: order, bounds, errors and an early end."""

import itertools
import threading

import pytest

from hyperseg_jax.data.read_ahead import read_in_thread
from hyperseg_jax.errors import UserError


def test_items_come_in_order_and_few_are_read_ahead():
    read = []
    items = (read.append(k) or k for k in itertools.count())
    for k in itertools.islice(read_in_thread(items, 3), 20):
        assert k == len(read[: k + 1]) - 1 and len(read) <= k + 1 + 3
    assert list(read_in_thread([], 2)) == []


def test_an_item_is_not_delayed_by_the_next_one():
    """A live stream whose second frame comes later."""
    later = threading.Event()

    def stream():
        yield 0
        later.wait(60)
        yield 1

    items = read_in_thread(stream(), 2)
    assert next(items) == 0
    later.set()
    assert list(items) == [1]


def test_an_error_comes_after_the_items_before_it():
    def stream():
        yield from range(2)
        raise UserError("frame 2 is damaged")

    items = read_in_thread(stream(), 2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(UserError, match="frame 2 is damaged"):
        next(items)
