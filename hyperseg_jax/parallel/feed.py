"""Transfer of batches between hosts and devices: each host feeds and reads the rows of its own devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a global batch that lie on this process's devices.

    total: rows of the global batch. indices: this process's rows, in order. scored: for each of them, whether this process
    scores it; of several processes that hold a row, the first one does.
    """

    total: int
    indices: tuple[int, ...]
    scored: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Feed:
    """Transfers batches between this process and its devices. sharding: sharding of batches along their first axis; None in a
    single process whose batches are placed by jit."""

    sharding: Sharding | None = None

    def divisible_size(self, at_least: int) -> int:
        """Returns the smallest batch size that is not below `at_least` and that the sharding divides evenly."""
        if self.sharding is None:
            return at_least
        parts = next(n for n in range(1, self.sharding.num_devices + 1) if self._is_divisible(n))
        return -(-at_least // parts) * parts

    def _is_divisible(self, size: int) -> bool:
        try:
            cast(Sharding, self.sharding).shard_shape((size,))
        except ValueError:
            return False
        return True

    def rows(self, batch_size: int) -> Rows:
        """Returns which rows of a global batch lie on the devices of this process. Raises UserError if there are none, or if
        the batch size cannot be divided evenly."""
        if self.sharding is None:
            return Rows(batch_size, tuple(range(batch_size)), (True,) * batch_size)
        if not self._is_divisible(batch_size):
            raise UserError(
                f"train.batch_size = {batch_size}: give a multiple of {self.divisible_size(1)}, the number of batch shards"
            )
        holders: dict[int, set[int]] = {}
        device: Any
        for device, (index, *_) in self.sharding.devices_indices_map((batch_size,)).items():
            for row in range(batch_size)[index]:
                holders.setdefault(row, set()).add(device.process_index)
        process = jax.process_index()
        indices = tuple(row for row in sorted(holders) if process in holders[row])
        if not indices:
            raise UserError(
                f"process {hosts.process_name(process)} has no device in the mesh; use a preset that uses all devices"
            )
        return Rows(batch_size, indices, tuple(min(holders[row]) == process for row in indices))

    def put(self, batch: Any, rows: Rows | None = None) -> Any:
        """Returns the global arrays of a batch. batch: nested NumPy arrays with the rows of this process, in order. rows:
        result of `rows`. Without a sharding, returns the batch unchanged."""
        if (sharding := self.sharding) is None or rows is None:
            return batch
        # The rows of a host need not be contiguous: chips are ordered by the topology of a slice, not by host.
        position = {row: k for k, row in enumerate(rows.indices)}

        def to_global(leaf: np.ndarray) -> jax.Array:
            def read_shard(index: Any) -> Any:
                start, stop, _ = index[0].indices(rows.total)
                return leaf[position[start] : position[start] + stop - start]

            return jax.make_array_from_callback((rows.total, *leaf.shape[1:]), sharding, read_shard)

        return jax.tree.map(to_global, batch)

    def map_shards(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps function(batch, replicated) in jax.shard_map: each device runs it on its own rows of the batch and on all of
        `replicated`. Its outputs are sharded like a batch. Without a sharding, returns the function unchanged."""
        if self.sharding is None:
            return function
        sharding = cast(NamedSharding, self.sharding)
        rows, replicated = sharding.spec, PartitionSpec()
        return jax.shard_map(function, mesh=sharding.mesh, in_specs=(rows, replicated), out_specs=rows, check_vma=False)

    def local_rows(self, array: jax.Array) -> np.ndarray:
        """Returns this process's rows of an array with the sharding of a batch, in order."""
        if self.sharding is None:
            return np.asarray(array)
        shards = {shard.index[0].indices(array.shape[0])[0]: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


SINGLE_PROCESS = Feed()
