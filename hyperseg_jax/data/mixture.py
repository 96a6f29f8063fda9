"""Maps a global index to (task, record) with exact task ratios, for batches of one task or mixed batches.

Element i of the stream belongs to step i // batch_size. Tasks follow a fixed cycle in which each task occurs as often as its
ratio, spread as evenly as possible. One task may be trained alone before the cycle starts. The cycle advances once per step
(all elements of a batch are of one task) or once per element (mixed batches). Each task reads its records in the order of its
own endless, seeded shuffle. The mapping is a pure function, so the state of the data stream is one integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget

MIXED = "mixed"
MAX_ELEMENTS = 2**31 - 1
"""Maximum number of elements of a run: Grain counts with 32 bits."""
BATCHES = ("task", MIXED)
"""Values of data.batches: one task per batch, or all tasks mixed in each batch."""

LONGEST_CYCLE = 1_000_000
"""Maximum sum of the ratios of all tasks."""


def check_ratios(ratios: Mapping[str, int]) -> None:
    """Raises UserError if the ratios are not whole numbers, are all zero, or sum to more than LONGEST_CYCLE."""
    if not ratios or any(int(r) != r or r < 0 for r in ratios.values()) or not sum(ratios.values()):
        listed = ", ".join(f"{name} {ratio}" for name, ratio in ratios.items())
        raise UserError(f"data.tasks: the ratios are {listed or 'none'}; give whole numbers, at least one above zero")
    if sum(ratios.values()) > LONGEST_CYCLE:
        raise UserError(
            f"data.tasks: the ratios sum to {sum(ratios.values())}; give smaller ones, at most {LONGEST_CYCLE} in total"
        )


def task_cycle(ratios: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the order of tasks in one cycle: {"a": 3, "b": 1} -> ("a", "a", "b", "a"). Raises UserError, see check_ratios."""
    check_ratios(ratios)
    slots = [((k + 0.5) / ratio, name) for name, ratio in ratios.items() for k in range(ratio)]
    return tuple(name for _, name in sorted(slots))


class Mixture:
    """Random access to the endless stream of preprocessed elements.

    tasks: {name: task} with `train` (a random-access reader), `ratio`, `prepare(example, rng)` and `blank()`. A record that
    cannot be read is replaced by `blank()`, and "fault" holds the encoded error message (datasets/record_errors.py). The
    randomness of an element (class order, augmentation, and frame sampling if the reader has `sample(record, rng)`) depends
    on the seed and the global index, so it differs between epochs but not between hosts.
    first: (task, steps): the task that is trained alone at the start, and for how many steps. batches: one of BATCHES.
    """

    def __init__(
        self, tasks: Mapping[str, Any], batch_size: int, seed: int, first: tuple[str, int] = ("", 0), batches: str = "task"
    ) -> None:
        if batches not in BATCHES:
            raise UserError(f"data.batches = {batches!r}: use one of {', '.join(BATCHES)}")
        self._tasks = {name: task for name, task in tasks.items() if task.ratio}
        self._cycle = task_cycle({name: task.ratio for name, task in tasks.items()})
        self._batch_size, self._seed, self._first, self._mixed = batch_size, seed, first, batches == MIXED
        self._streams = {
            name: grain.MapDataset.range(len(task.train)).seed(seed + k).shuffle().repeat()
            for k, (name, task) in enumerate(sorted(self._tasks.items()))
        }
        self._rank = [self._cycle[:k].count(name) for k, name in enumerate(self._cycle)]

    def locate(self, index: int) -> tuple[str, int]:
        """Returns (task, position in the shuffled stream of that task) of global element `index`."""
        step, slot = divmod(index, self._batch_size)
        first_task, first_steps = self._first
        if step < first_steps:
            return first_task, index
        run = 1 if self._mixed else self._batch_size  # number of consecutive elements of one task
        turn, k = divmod((index - first_steps * self._batch_size) // run, len(self._cycle))
        name = self._cycle[k]
        before = first_steps * self._batch_size if name == first_task else 0
        return name, before + (turn * self._cycle.count(name) + self._rank[k]) * run + slot % run

    def program(self, step: int) -> str:
        """Returns the program of a step (from 0): the task of its batch, or "mixed". Batches of one program share a shape."""
        return MIXED if self._mixed else self.locate(step * self._batch_size)[0]

    def __len__(self) -> int:
        return MAX_ELEMENTS // self._batch_size * self._batch_size

    def __getitem__(self, index: int) -> Any:
        name, position = self.locate(index)
        task, rng = self._tasks[name], LazyGenerator(self._seed, index)
        record = int(self._streams[name][position])
        try:
            with budget.record_budget():
                example = task.train.sample(record, rng) if hasattr(task.train, "sample") else task.train[record]
                arrays, message = task.prepare(example, rng), ""
        except BaseException as error:
            arrays, message = task.blank(), f"{name} record {record}: {record_errors.error_message(error)}"
        return {**arrays, "fault": record_errors.encode_message(message)}


class LazyGenerator:
    """An np.random.Generator for a key, created on first use. Creating one takes a twentieth of the time of decoding an image,
    and many elements need no random numbers."""

    def __init__(self, *key: int) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        if "_generator" not in self.__dict__:
            self._generator = np.random.default_rng(self._key)
        return getattr(self._generator, name)
