"""The stream of batches: a global Grain dataset whose position is one integer, on any number of hosts and workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain
from grain.experimental import ElasticIterator

from hyperseg_jax.data.mixture import Mixture


class Stream:
    """Batches of this host. position: global elements taken so far; it is in every checkpoint."""

    def __init__(
        self, mixture: Mixture, batch_size: int, *, position: int = 0, workers: int = 0, host: int = 0, hosts: int = 1
    ) -> None:
        parallel = grain.MultiprocessingOptions(num_workers=workers) if workers else None
        self._iterator = iter(
            ElasticIterator(
                grain.MapDataset.source(mixture),
                batch_size,
                grain.sharding.ShardOptions(shard_index=host, shard_count=hosts),
                read_options=grain.ReadOptions(num_threads=2, prefetch_buffer_size=4 * batch_size // hosts),
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
        return next(self._iterator)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._iterator.close()
