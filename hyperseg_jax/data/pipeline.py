"""The stream of batches: a global Grain dataset whose state is one integer, for any number of hosts and worker processes."""

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
    """Iterates over this host's rows of each batch.

    position: the number of global elements consumed so far; saved in every checkpoint. rows: indices of the batch rows that
    this host loads; all rows by default. read_errors: (global element index, error message) of the records in the batches so
    far that this host could not read.
    """

    def __init__(
        self, mixture: Mixture, batch_size: int, *, position: int = 0, workers: int = 0, rows: Sequence[int] | None = None
    ) -> None:
        rows = range(batch_size) if rows is None else rows
        self._batch_size, self._rows, self._rows_per_batch = batch_size, rows, len(rows)
        self.read_errors: list[tuple[int, str]] = []
        _parse_absl_flags(workers)
        self._workers, self._started = workers, False
        parallel = grain.MultiprocessingOptions(num_workers=workers) if workers else None
        self._iterator = iter(
            ElasticIterator(
                grain.MapDataset.source(_Rows(mixture, batch_size, rows)),
                len(rows),
                grain.sharding.ShardOptions(shard_index=0, shard_count=1),  # _Rows already selects this host's rows
                # Threads inside a worker process would only contend with each other. The buffer size is in batches.
                read_options=grain.ReadOptions(*((0, 0) if workers else (2, 4))),
                multiprocessing_options=parallel,
            )
        )
        self._iterator.set_state({"global_next_index": position // batch_size * len(rows)})

    @property
    def position(self) -> int:
        return int(self._iterator.get_state()["global_next_index"]) // self._rows_per_batch * self._batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        start = self.position
        batch = self._next_batch()
        for row, codes in zip(self._rows, batch.pop("fault"), strict=True):
            if codes[0]:
                self.read_errors.append((start + row, record_errors.decode_message(codes)))
        return batch

    def _next_batch(self) -> dict[str, Any]:
        if self._started:
            return next(self._iterator)
        self._started = True
        with _block_signals(self._workers):
            return next(self._iterator)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._iterator.close()


class _KeepsLimits:
    """Base class that carries the limits of untrusted data (untrusted/limits) to worker processes when pickled."""

    def __init__(self) -> None:
        self._limits = limits.current()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if multiprocessing.parent_process() is not None:
            limits.set_limits(self._limits)


class _Rows(_KeepsLimits):
    """The elements at the indices `rows` of each batch of a source."""

    def __init__(self, source: Any, batch_size: int, rows: Sequence[int]) -> None:
        super().__init__()
        self._source, self._batch_size, self._rows = source, batch_size, rows

    def __len__(self) -> int:
        return len(self._source) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, k = divmod(index, len(self._rows))
        return self._source[batch * self._batch_size + self._rows[k]]


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Placeholder for a record that cannot be read. reason: the error message, one line."""

    reason: str


def read_ahead(examples: Sequence[Any], indices: Sequence[int], *, workers: int = 0) -> Generator[Any, None, None]:
    """Yields examples[index] for each index in order, prefetched; an Unreadable for a record that cannot be read.

    workers: number of decoding processes; 0 decodes in threads of this process. Processes take seconds to start and are not
    used for fewer than MIN_RECORDS_FOR_WORKERS records.
    """
    workers = workers if len(indices) >= MIN_RECORDS_FOR_WORKERS else 0
    _parse_absl_flags(workers)
    dataset = grain.MapDataset.source(_ReadOrError(examples, indices))
    read = dataset.to_iter_dataset(grain.ReadOptions(*((0, 0) if workers else (2, 4))))
    if workers:
        read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    iterator = iter(read)
    try:
        for number in range(len(indices)):
            with _block_signals(workers if number == 0 else 0):
                example = next(iterator)
            yield example
    finally:
        iterator.close()


MIN_RECORDS_FOR_WORKERS = 256
"""Below this number of records, `read_ahead` starts no worker processes."""


class _ReadOrError(_KeepsLimits):
    """Reads examples[indices[k]], or returns an Unreadable with the error message."""

    def __init__(self, examples: Sequence[Any], indices: Sequence[int]) -> None:
        super().__init__()
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, k: int) -> Any:
        try:
            return self._examples[self._indices[k]]
        except BaseException as error:
            return Unreadable(record_errors.error_message(error))


def _parse_absl_flags(workers: int) -> None:
    """Parses no command-line flags with absl if nothing else has parsed them, because Grain's worker processes read parsed
    flags."""
    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])  # Grain's workers read them


@contextlib.contextmanager
def _block_signals(workers: int) -> Iterator[None]:
    """Blocks SIGINT and SIGTERM while worker processes start, so that workers inherit the blocked signals.

    A Ctrl-C in the terminal or a cluster's SIGTERM to every process is handled by the training loop, which still needs the
    batches in flight.
    """
    if workers:
        resource_tracker.ensure_running()  # its lazy start would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM) if workers else ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
