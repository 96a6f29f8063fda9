"""The stream of batches: a global Grain dataset whose position is one integer, on any number of hosts and workers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags
from grain.experimental import ElasticIterator

from hyperseg_jax.data.mixture import Mixture


class Stream:
    """This host's rows of each batch: the part-th of `parts` equal blocks, so that the blocks, one below the other, are the
    batch that one host would feed. position: global elements taken so far; it is in every checkpoint."""

    def __init__(
        self, mixture: Mixture, batch_size: int, *, position: int = 0, workers: int = 0, part: int = 0, parts: int = 1
    ) -> None:
        if workers and not flags.FLAGS.is_parsed():
            flags.FLAGS(sys.argv[:1])  # Grain's workers read them
        self._workers, self._started = workers, False
        parallel = grain.MultiprocessingOptions(num_workers=workers) if workers else None
        self._iterator = iter(
            ElasticIterator(
                grain.MapDataset.source(_Blocks(mixture, batch_size, parts)),
                batch_size,
                grain.sharding.ShardOptions(shard_index=part, shard_count=parts),
                read_options=grain.ReadOptions(num_threads=2, prefetch_buffer_size=4 * batch_size // parts),
                multiprocessing_options=parallel,
            )
        )
        self._iterator.set_state({"global_next_index": position})

    @property
    def position(self) -> int:
        return int(self._iterator.get_state()["global_next_index"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._started:
            return next(self._iterator)
        self._started = True
        # Workers start here and inherit what is blocked: a Ctrl-C in the terminal, or a cluster's SIGTERM to every process,
        # is for the loop, which still wants the batches under way.
        resource_tracker.ensure_running()  # its own start would unblock them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM) if self._workers else ())
        try:
            return next(self._iterator)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._iterator.close()


class _Blocks:
    """A source in the order in which Grain deals it out: it gives element i to part i % parts, and gets the element that
    makes the parts contiguous blocks of a batch."""

    def __init__(self, source: Any, batch_size: int, parts: int) -> None:
        self._source, self._batch_size, self._parts = source, batch_size, parts

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        batch, place = divmod(index, self._batch_size)
        row, part = divmod(place, self._parts)
        return self._source[batch * self._batch_size + part * (self._batch_size // self._parts) + row]
