"""How much of a task's batches is padding, measured on some of its records, and the length that would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from hyperseg_jax.data.mixture import MIXED
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors

RECORDS = 32
"""So many are drawn of a task."""
BATCHES = 200
"""So many batches are drawn of their lengths."""
POSITIONS = "positions"
"""What a processor calls the places of its token sequence."""
STEP = 16
"""Positions that a proposed length is a multiple of."""


@dataclasses.dataclass(frozen=True)
class Padding:
    """What was found of one task. fault: what was wrong with the first record that could not be read, "" where all could.

    read: how many could. length: positions of a batch, 0 where the system has no token sequence. used: how many of them each
    element took. free: of the rest of what is padded, such as pixels, the part that is padding.
    """

    fault: str
    read: int = 0
    length: int = 0
    used: tuple[int, ...] = ()
    free: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def cells(self, length_buckets: Sequence[int], batch_size: int) -> list[str]:
        """Of a table, what concerns the positions: length, longest, proposed, the part that is padding, and that once batches
        of such elements are cut."""
        if not self.length:
            return [""] * (4 + bool(length_buckets))
        longest, used = max(self.used, default=0), np.array(self.used or (0,))
        parts = [1 - used.mean() / self.length]
        if length_buckets:
            lengths = np.array(sorted({*(n for n in length_buckets if n < self.length), self.length}))
            batches = np.random.default_rng(0).choice(used, (BATCHES, batch_size)).max(1)
            parts.append(1 - used.mean() / lengths[np.searchsorted(lengths, batches)].mean())
        return [str(self.length), str(longest), str(-(-longest // STEP) * STEP), *map(_percent, parts)]


def measure(task: Task, *, seed: int, records: int = RECORDS) -> Padding:
    """Draws training records of a task, the same everywhere, and makes them into arrays as the stream does."""
    train = task.train or ()
    made, fault = [], "" if len(train) else "there are none"
    for k in np.random.default_rng(seed).permutation(len(train))[:records]:
        try:
            made.append(task.trained.padding(task.prepare(train[int(k)], np.random.default_rng([seed, int(k)]))))
        except BaseException as error:
            reason = record_errors.reason(error)
            fault = fault or f"record {k}: {reason}"
    if not made:
        return Padding(fault)
    sums = {name: np.sum([element[name] for element in made], axis=0) for name in made[0]}
    free = {name: float(1 - used / max(room, 1)) for name, (used, room) in sums.items() if name != POSITIONS}
    positions = [element[POSITIONS] for element in made if POSITIONS in element]
    length = max((room for _, room in positions), default=0)
    return Padding(fault, len(made), length, tuple(used for used, _ in positions), free)


def table(
    found: Mapping[str, Padding], ratios: Mapping[str, int], *, batch_size: int, length_buckets: Sequence[int], mixed: bool
) -> Table:
    """One line a task, and where batches are mixed, one of those."""
    title = f"padding of the training batches, by {RECORDS} records of each task"
    cut, rest = (
        ["in buckets"] if length_buckets else [],
        list(dict.fromkeys(name for one in found.values() for name in one.free)),
    )
    made = Table("task", "length", "longest", "would do", POSITIONS, *cut, *rest, title=title)
    for name, one in found.items():
        cells = one.cells(() if mixed else length_buckets, batch_size) + [""] * (mixed and len(cut))
        made.add_row(name, *cells, *(_percent(one.free.get(kind, 0.0)) for kind in rest))
    if mixed:
        pool = tuple(n for name, one in found.items() for n in one.used * ratios[name])
        length = max(one.length for one in found.values())
        made.add_row(MIXED, *Padding("", 0, length, pool).cells(length_buckets, batch_size))
    return made


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
