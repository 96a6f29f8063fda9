"""Rows of batches on their way to the devices and back: each host feeds and reads those that lie with it."""

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
    """The rows of a global batch of `total` that lie on this process's devices. places: their numbers, in order. scored: for
    each of them whether this is the first of the processes that hold it, and so the one that counts it."""

    total: int
    places: tuple[int, ...]
    scored: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Feed:
    """sharding: how batches lie on the mesh, cut along their first axis; None leaves all to jit, in a run of one process."""

    sharding: Sharding | None = None

    def size(self, wanted: int) -> int:
        """The smallest batch from `wanted` rows on that every device gets an equal part of."""
        if self.sharding is None:
            return wanted
        cuts = next(n for n in range(1, self.sharding.num_devices + 1) if self._divides(n))
        return -(-wanted // cuts) * cuts

    def _divides(self, size: int) -> bool:
        try:
            cast(Sharding, self.sharding).shard_shape((size,))
        except ValueError:
            return False
        return True

    def rows(self, batch_size: int) -> Rows:
        """This process's rows of a batch. UserError where it has none."""
        if self.sharding is None:
            return Rows(batch_size, tuple(range(batch_size)), (True,) * batch_size)
        if not self._divides(batch_size):
            raise UserError(f"train.batch_size = {batch_size}: give a multiple of {self.size(1)}, the devices along the batch")
        holders: dict[int, set[int]] = {}
        device: Any
        for device, (index, *_) in self.sharding.devices_indices_map((batch_size,)).items():
            for row in range(batch_size)[index]:
                holders.setdefault(row, set()).add(device.process_index)
        me = jax.process_index()
        places = tuple(row for row in sorted(holders) if me in holders[row])
        if not places:
            raise UserError(f"process {hosts.name(me)} has no device of the mesh; use a preset that takes all devices")
        return Rows(batch_size, places, tuple(min(holders[row]) == me for row in places))

    def put(self, batch: Any, rows: Rows | None = None) -> Any:
        """This process's rows of a batch (NumPy), in their order, as global arrays. rows: of `rows`; needed where there is a
        sharding."""
        if (sharding := self.sharding) is None or rows is None:
            return batch
        # Nothing says that the rows of a host lie together: chips are numbered along the links of a slice, not by host.
        place = {row: k for k, row in enumerate(rows.places)}

        def of(leaf: np.ndarray) -> jax.Array:
            def part(index: Any) -> Any:
                start, stop, _ = index[0].indices(rows.total)
                return leaf[place[start] : place[start] + stop - start]

            return jax.make_array_from_callback((rows.total, *leaf.shape[1:]), sharding, part)

        return jax.tree.map(of, batch)

    def map_shards(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """function(rows, shared): each device on its own rows; what it makes of them lies as they do."""
        if self.sharding is None:
            return function
        sharding = cast(NamedSharding, self.sharding)
        rows, whole = sharding.spec, PartitionSpec()
        return jax.shard_map(function, mesh=sharding.mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False)

    def own(self, array: jax.Array) -> np.ndarray:
        """This process's rows of an array that lies as a batch does, in their order."""
        if self.sharding is None:
            return np.asarray(array)
        shards = {shard.index[0].indices(array.shape[0])[0]: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


ALONE = Feed()
