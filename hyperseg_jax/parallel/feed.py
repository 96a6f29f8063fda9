"""Rows of batches on their way to the devices and back: each host feeds and reads those that lie with it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Sharding

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts


@dataclasses.dataclass(frozen=True)
class Rows:
    """What this process feeds of a global batch: the part-th of `parts` equal blocks of rows. scores: whether it is the first
    of the processes that hold these rows, and so the one that counts them."""

    part: int = 0
    parts: int = 1
    scores: bool = True

    def of(self, batch_size: int) -> range:
        """Their places in a global batch."""
        size = batch_size // self.parts
        return range(self.part * size, (self.part + 1) * size)


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
        """The rows of a batch that lie on this process's devices. UserError where those are not one equal block of it."""
        if self.sharding is None:
            return Rows()
        if not self._divides(batch_size):
            raise UserError(f"train.batch_size = {batch_size}: give a multiple of {self.size(1)}, the devices along the batch")
        blocks: dict[int, set[tuple[int, int]]] = {}
        device: Any
        for device, (index, *_) in self.sharding.devices_indices_map((batch_size,)).items():
            start, stop, _ = index.indices(batch_size)
            blocks.setdefault(device.process_index, set()).add((start, stop))
        me = jax.process_index()
        if me not in blocks:
            raise UserError(f"process {hosts.name(me)} has no device of the mesh; use a preset that takes all devices")
        spans = {process: _span(sorted(found), process) for process, found in blocks.items()}
        start, stop = spans[me]
        if batch_size % (stop - start) or start % (stop - start):
            raise UserError(f"process {hosts.name(me)} holds rows {start} to {stop} of {batch_size}, which is no equal part; "
                            "give each host the same number of devices along the batch")  # fmt: skip
        first = min(process for process, span in spans.items() if span == spans[me])
        return Rows(start // (stop - start), batch_size // (stop - start), me == first)

    def put(self, batch: Any) -> Any:
        """This process's rows of a batch (NumPy) as global arrays."""
        if self.sharding is None:
            return batch
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharding, x), batch)

    def own(self, array: jax.Array) -> np.ndarray:
        """This process's rows of an array that lies as a batch does, in their order."""
        if self.sharding is None:
            return np.asarray(array)
        shards = {shard.index[0].indices(array.shape[0])[0]: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


ALONE = Feed()


def _span(blocks: list[tuple[int, int]], process: int) -> tuple[int, int]:
    for (_, stop), (start, _) in itertools.pairwise(blocks):
        if stop != start:
            raise UserError(f"process {hosts.name(process)} holds rows that are not side by side ({blocks}); "
                            "lay the mesh so that a host's devices lie together along the batch")  # fmt: skip
    return blocks[0][0], blocks[-1][1]
