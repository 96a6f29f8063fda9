"""The stream of batches: a global Grain dataset whose position is one integer, on any number of hosts and workers."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags
from grain.experimental import ElasticIterator

from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.untrusted import limits


class Stream:
    """This host's rows of each batch, in their order. position: global elements taken so far; it is in every checkpoint.

    rows: the places in a batch that this host feeds; all of them by default. faults: (global element, why) of the records of
    the batches given so far that this host could not read.
    """

    def __init__(
        self, mixture: Mixture, batch_size: int, *, position: int = 0, workers: int = 0, rows: Sequence[int] | None = None
    ) -> None:
        rows = range(batch_size) if rows is None else rows
        self._batch_size, self._rows, self._own = batch_size, rows, len(rows)
        self.faults: list[tuple[int, str]] = []
        _parse_flags(workers)
        self._workers, self._started = workers, False
        parallel = grain.MultiprocessingOptions(num_workers=workers) if workers else None
        self._iterator = iter(
            ElasticIterator(
                grain.MapDataset.source(_Rows(mixture, batch_size, rows)),
                len(rows),
                grain.sharding.ShardOptions(shard_index=0, shard_count=1),  # _Rows has left out those of other hosts
                # Threads in a worker would only wait for each other; a buffer counts batches.
                read_options=grain.ReadOptions(*((0, 0) if workers else (2, 4))),
                multiprocessing_options=parallel,
            )
        )
        self._iterator.set_state({"global_next_index": position // batch_size * len(rows)})

    @property
    def position(self) -> int:
        return int(self._iterator.get_state()["global_next_index"]) // self._own * self._batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        start = self.position
        batch = self._next()
        for row, codes in zip(self._rows, batch.pop("fault"), strict=True):
            if codes[0]:
                self.faults.append((start + row, record_errors.read(codes)))
        return batch

    def _next(self) -> dict[str, Any]:
        if self._started:
            return next(self._iterator)
        self._started = True
        with _starting(self._workers):
            return next(self._iterator)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._iterator.close()


class _Limited:
    """What takes the limits that it is made under along to a worker process."""

    def __init__(self) -> None:
        self._limits = limits.current()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if multiprocessing.parent_process() is not None:
            limits.apply(self._limits)


class _Rows(_Limited):
    """Of a source of batches of batch_size elements, the elements at `rows` of each."""

    def __init__(self, source: Any, batch_size: int, rows: Sequence[int]) -> None:
        super().__init__()
        self._source, self._batch_size, self._rows = source, batch_size, rows

    def __len__(self) -> int:
        return len(self._source) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, place = divmod(index, len(self._rows))
        return self._source[batch * self._batch_size + self._rows[place]]


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands for a record that cannot be read; reason says why, in one line."""

    reason: str


def read_ahead(examples: Sequence[Any], indices: Sequence[int], *, workers: int = 0) -> Generator[Any, None, None]:
    """examples[index] for each of the indices in order, or an Unreadable, decoded before they are asked for.

    workers: processes that decode; with 0, threads of this process. Processes take seconds to start and are not used for fewer
    than WORTH_WORKERS records.
    """
    workers = workers if len(indices) >= WORTH_WORKERS else 0
    _parse_flags(workers)
    dataset = grain.MapDataset.source(_Readable(examples, indices))
    read = dataset.to_iter_dataset(grain.ReadOptions(*((0, 0) if workers else (2, 4))))
    if workers:
        read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    iterator = iter(read)
    try:
        for number in range(len(indices)):
            with _starting(workers if number == 0 else 0):
                made = next(iterator)
            yield made
    finally:
        iterator.close()


WORTH_WORKERS = 256
"""Records."""


class _Readable(_Limited):
    """examples[index] at the places of `indices`, or what is wrong with it."""

    def __init__(self, examples: Sequence[Any], indices: Sequence[int]) -> None:
        super().__init__()
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> Any:
        try:
            return self._examples[self._indices[place]]
        except BaseException as error:
            return Unreadable(record_errors.reason(error))


def _parse_flags(workers: int) -> None:
    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])  # Grain's workers read them


@contextlib.contextmanager
def _starting(workers: int) -> Iterator[None]:
    """Around the call that starts worker processes. They inherit which signals are blocked: a Ctrl-C in the terminal, or a
    cluster's SIGTERM to every process, is for the loop, which still wants the batches under way."""
    if workers:
        resource_tracker.ensure_running()  # its own start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM) if workers else ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
