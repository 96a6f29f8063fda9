"""Global index -> (task, record), a pure function: batches of one task, tasks by exact ratios.

Element i of the stream belongs to step i // batch_size, and every element of a step has one task. Tasks follow a fixed cycle
in which each stands as often as its ratio says, spread as evenly as can be; before it begins, one task may come alone. The n-th
step of a task takes records n * batch_size ... of that task's own endless, seeded shuffle. So the position in the data is one
integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np


def cycle(ratios: Mapping[str, int]) -> tuple[str, ...]:
    """The order of tasks in one cycle. {"a": 3, "b": 1} -> ("a", "a", "b", "a")."""
    if not ratios or any(int(r) != r or r < 0 for r in ratios.values()) or not sum(ratios.values()):
        raise ValueError(f"mixture ratios {dict(ratios)}: give whole numbers, at least one above zero")
    slots = [((k + 0.5) / ratio, name) for name, ratio in ratios.items() for k in range(ratio)]
    return tuple(name for _, name in sorted(slots))


class Mixture:
    """Random access to the endless stream of ready elements.

    tasks: {name: task} with `train` (a random-access reader), `ratio`, and `prepare(example, rng)`. Randomness of an element
    (class order, mirroring; the frames of a clip, where the reader has `sample(record, rng)`) is keyed by the seed and its
    global index, so it differs from epoch to epoch and not from host to host. first: (task, steps), what the stream begins
    with.
    """

    def __init__(self, tasks: Mapping[str, Any], batch_size: int, seed: int, first: tuple[str, int] = ("", 0)) -> None:
        self._tasks = {name: task for name, task in tasks.items() if task.ratio}
        self._cycle = cycle({name: task.ratio for name, task in self._tasks.items()})
        self._batch_size, self._seed, self._first = batch_size, seed, first
        self._streams = {
            name: grain.MapDataset.range(len(task.train)).seed(seed + k).shuffle().repeat()
            for k, (name, task) in enumerate(sorted(self._tasks.items()))
        }
        self._rank = [self._cycle[:k].count(name) for k, name in enumerate(self._cycle)]

    def locate(self, index: int) -> tuple[str, int]:
        """(task, position in that task's shuffled stream) of global element `index`."""
        step, slot = divmod(index, self._batch_size)
        alone, begin = self._first
        if step < begin:
            return alone, step * self._batch_size + slot
        turn, k = divmod(step - begin, len(self._cycle))
        name = self._cycle[k]
        before = begin if name == alone else 0
        return name, (before + turn * self._cycle.count(name) + self._rank[k]) * self._batch_size + slot

    def __len__(self) -> int:
        return np.iinfo(np.int32).max // self._batch_size * self._batch_size

    def __getitem__(self, index: int) -> Any:
        name, position = self.locate(index)
        task, rng = self._tasks[name], np.random.default_rng((self._seed, index))
        record = int(self._streams[name][position])
        example = task.train.sample(record, rng) if hasattr(task.train, "sample") else task.train[record]
        return task.prepare(example, rng)
