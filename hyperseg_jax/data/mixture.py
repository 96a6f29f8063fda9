"""Global index -> (task, record), a pure function: batches of one task or mixed, tasks by exact ratios.

Element i of the stream belongs to step i // batch_size. Tasks follow a fixed cycle in which each stands as often as its ratio
says, spread as evenly as can be; before it begins, one task may come alone. The cycle goes on with every step, whose elements
are then all of one task, or with every element. The elements of a task take the records of its own endless, seeded shuffle one
after the other. So the position in the data is one integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError

MIXED = "mixed"
BATCHES = ("task", MIXED)
"""What a batch is of: one task, or all of them."""


def cycle(ratios: Mapping[str, int]) -> tuple[str, ...]:
    """The order of tasks in one cycle. {"a": 3, "b": 1} -> ("a", "a", "b", "a")."""
    if not ratios or any(int(r) != r or r < 0 for r in ratios.values()) or not sum(ratios.values()):
        told = ", ".join(f"{name} {ratio}" for name, ratio in ratios.items())
        raise UserError(f"data.tasks: the ratios are {told or 'none'}; give whole numbers, at least one above zero")
    slots = [((k + 0.5) / ratio, name) for name, ratio in ratios.items() for k in range(ratio)]
    return tuple(name for _, name in sorted(slots))


class Mixture:
    """Random access to the endless stream of ready elements.

    tasks: {name: task} with `train` (a random-access reader), `ratio`, `prepare(example, rng)`, and `blank()`, which stands
    for a record that cannot be read; "fault" then says why (datasets/record_errors.py). Randomness of an element (class order,
    augmentation; the frames of a clip, where the reader has `sample(record, rng)`) is keyed by the seed and its global index,
    so it differs from epoch to epoch and not from host to host. first: (task, steps), what the stream begins with. batches:
    one of BATCHES.
    """

    def __init__(
        self, tasks: Mapping[str, Any], batch_size: int, seed: int, first: tuple[str, int] = ("", 0), batches: str = "task"
    ) -> None:
        if batches not in BATCHES:
            raise UserError(f"data.batches = {batches!r}: use one of {', '.join(BATCHES)}")
        self._tasks = {name: task for name, task in tasks.items() if task.ratio}
        self._cycle = cycle({name: task.ratio for name, task in tasks.items()})
        self._batch_size, self._seed, self._first, self._mixed = batch_size, seed, first, batches == MIXED
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
            return alone, index
        run = 1 if self._mixed else self._batch_size  # so many elements side by side are of one task
        turn, k = divmod((index - begin * self._batch_size) // run, len(self._cycle))
        name = self._cycle[k]
        before = begin * self._batch_size if name == alone else 0
        return name, before + (turn * self._cycle.count(name) + self._rank[k]) * run + slot % run

    def program(self, step: int) -> str:
        """What the batch of a step, from 0, is called: its task, or "mixed". Batches of one name have one shape."""
        return MIXED if self._mixed else self.locate(step * self._batch_size)[0]

    def __len__(self) -> int:
        return np.iinfo(np.int32).max // self._batch_size * self._batch_size

    def __getitem__(self, index: int) -> Any:
        name, position = self.locate(index)
        task, rng = self._tasks[name], Draws(self._seed, index)
        record = int(self._streams[name][position])
        try:
            example = task.train.sample(record, rng) if hasattr(task.train, "sample") else task.train[record]
            made, fault = task.prepare(example, rng), ""
        except BaseException as error:
            made, fault = task.blank(), f"{name} record {record}: {record_errors.reason(error)}"
        return {**made, "fault": record_errors.written(fault)}


class Draws:
    """The np.random.Generator of a key, made when it is first asked for something: that takes a twentieth of the time of
    decoding an image, and many elements draw nothing."""

    def __init__(self, *key: int) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        if "_made" not in self.__dict__:
            self._made = np.random.default_rng(self._key)
        return getattr(self._made, name)
