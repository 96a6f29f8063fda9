"""Reads any iterator ahead in another thread, such as the frames of a video."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def read_in_thread(items: Iterable[T], count: int) -> Iterator[T]:
    """Yields the items in order; up to `count` further ones are read in another thread meanwhile, and no more are kept.

    An item is yielded as soon as it is read, so that a live stream is not delayed. An error of the iterator is raised when its
    item would be yielded.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = collections.deque[Any](thread.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item
