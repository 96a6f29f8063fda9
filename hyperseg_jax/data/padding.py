"""Measures how much of the training batches of a task is padding and proposes a sequence length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from hyperseg_jax.data.mixture import MIXED
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors

RECORDS = 32
"""Number of records that are sampled per task."""
BATCHES = 200
"""Number of batches that are simulated from the measured lengths."""
POSITIONS = "positions"
"""The name that a processor gives to the positions of its token sequence."""
STEP = 16
"""A proposed length is a multiple of this number of positions."""


@dataclasses.dataclass(frozen=True)
class Padding:
    """The measured padding of one task.

    error: the error of the first unreadable record; "" if all could be read. read: the number of readable records.
    length: positions of a batch; 0 if the system has no token sequence. used: the positions that each element uses.
    padding_fractions: the fraction of padding of everything else that is padded, such as pixels, by name.
    """

    error: str
    read: int = 0
    length: int = 0
    used: tuple[int, ...] = ()
    padding_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def cells(self, length_buckets: Sequence[int], batch_size: int) -> list[str]:
        """Returns the table cells about positions: length, longest, proposed length, fraction of padding and, with length
        buckets, the fraction of padding in bucketed batches."""
        if not self.length:
            return [""] * (4 + bool(length_buckets))
        longest, used = max(self.used, default=0), np.array(self.used or (0,))
        fractions = [1 - used.mean() / self.length]
        if length_buckets:
            lengths = np.array(sorted({*(n for n in length_buckets if n < self.length), self.length}))
            batches = np.random.default_rng(0).choice(used, (BATCHES, batch_size)).max(1)
            fractions.append(1 - used.mean() / lengths[np.searchsorted(lengths, batches)].mean())
        return [str(self.length), str(longest), str(-(-longest // STEP) * STEP), *map(_percent, fractions)]


def measure_padding(task: Task, *, seed: int, records: int = RECORDS) -> Padding:
    """Samples training records of a task (the same on every host), processes them as the stream does, and measures padding."""
    train = task.train or ()
    elements, first_error = [], "" if len(train) else "there are none"
    for k in np.random.default_rng(seed).permutation(len(train))[:records]:
        try:
            elements.append(task.train_processor.padding(task.prepare(train[int(k)], np.random.default_rng([seed, int(k)]))))
        except BaseException as error:
            reason = record_errors.error_message(error)
            first_error = first_error or f"record {k}: {reason}"
    if not elements:
        return Padding(first_error)
    sums = {name: np.sum([element[name] for element in elements], axis=0) for name in elements[0]}
    fractions = {name: float(1 - used / room) for name, (used, room) in sums.items() if name != POSITIONS and room}
    positions = [element[POSITIONS] for element in elements if POSITIONS in element]
    length = max((room for _, room in positions), default=0)
    return Padding(first_error, len(elements), length, tuple(used for used, _ in positions), fractions)


def padding_table(
    measured: Mapping[str, Padding], ratios: Mapping[str, int], *, batch_size: int, length_buckets: Sequence[int], mixed: bool
) -> Table:
    """Returns a table of the measured paddings, with one row per task and, if batches are mixed, one for the mixed batches."""
    title = f"padding of the training batches, by {RECORDS} records of each task"
    bucketed = ["in buckets"] if length_buckets else []
    others = list(dict.fromkeys(name for padding in measured.values() for name in padding.padding_fractions))
    rows = Table("task", "length", "longest", "would do", POSITIONS, *bucketed, *others, title=title)
    for name, padding in measured.items():
        cells = padding.cells(() if mixed else length_buckets, batch_size) + [""] * (mixed and len(bucketed))
        rows.add_row(
            name,
            *cells,
            *(_percent(padding.padding_fractions[kind]) if kind in padding.padding_fractions else "" for kind in others),
        )
    if mixed:
        pool = tuple(n for name, padding in measured.items() for n in padding.used * ratios[name])
        length = max(padding.length for padding in measured.values())
        rows.add_row(MIXED, *Padding("", 0, length, pool).cells(length_buckets, batch_size))
    return rows


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
