"""How much of a task's batches is padding, measured on some of its records, and the length that would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from hyperseg_jax.data.mixture import MIXED
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import faults
from hyperseg_jax.structs import Source

RECORDS = 32
"""So many are drawn of a task."""
BATCHES = 200
"""So many batches are drawn of their lengths."""
STEP = 16
"""Positions that a proposed length is a multiple of."""


@dataclasses.dataclass(frozen=True)
class Padding:
    """What was found of one task. fault: what was wrong with the first record that could not be read, "" where all could.

    length: positions of a batch. used: how many of them each element took. prompts, targets, pixels: the part of the places of
    prompts, of the places of targets (of the prompts that are there) and of the pixels that is padding.
    """

    fault: str
    length: int
    used: tuple[int, ...] = ()
    prompts: float = 0.0
    targets: float = 0.0
    pixels: float = 0.0

    def cells(self, cuts: Sequence[int], batch_size: int) -> list[str]:
        """Of a table, what concerns the positions: length, longest, proposed, the part that is padding, and that once batches
        of such elements are cut."""
        longest, used = max(self.used, default=0), np.array(self.used or (0,))
        parts = [1 - used.mean() / self.length]
        if cuts:
            buckets = np.array(sorted({*(n for n in cuts if n < self.length), self.length}))
            batches = np.random.default_rng(0).choice(used, (BATCHES, batch_size)).max(1)
            parts.append(1 - used.mean() / buckets[np.searchsorted(buckets, batches)].mean())
        return [str(self.length), str(longest), str(-(-longest // STEP) * STEP), *map(_percent, parts)]


def measure(task: Task, *, seed: int, records: int = RECORDS) -> Padding:
    """Draws training records of a task, the same everywhere, and makes them into arrays as the stream does."""
    train, sizes = task.train or (), task.train_sizes
    made, fault = [], "" if len(train) else "there are none"
    for k in np.random.default_rng(seed).permutation(len(train))[:records]:
        try:
            arrays = task.prepare(train[int(k)], np.random.default_rng([seed, int(k)]))
        except BaseException as error:
            reason = faults.reason(error)
            fault = fault or f"record {k}: {reason}"
            continue
        layout, shown = arrays["layout"], int(np.prod(arrays["filled"])) * int(arrays["frame_valid"].sum())
        made.append(
            (int((layout["source"] != Source.PADDING).sum()), int(layout["prompt"].max()), int(arrays["valid"].sum()), shown)
        )
    if not made:
        return Padding(fault, sizes.length)
    used, prompts, targets, pixels = np.asarray(made).T
    free = lambda taken, room: float(1 - taken.sum() / max(room, 1))
    return Padding(
        fault,
        sizes.length,
        tuple(used.tolist()),
        prompts=free(prompts, len(made) * sizes.prompts),
        targets=free(targets, prompts.sum() * sizes.targets),
        pixels=free(pixels, len(made) * sizes.frames * sizes.image_size**2),
    )


def table(
    found: Mapping[str, Padding], ratios: Mapping[str, int], *, batch_size: int, cuts: Sequence[int], mixed: bool
) -> Table:
    """One line a task, and where batches are mixed, one of those."""
    title = f"padding of the training batches, by {RECORDS} records of each task"
    cut = ["after cuts"] if cuts else []
    made = Table("task", "length", "longest", "would do", "positions", *cut, "prompts", "targets", "pixels", title=title)
    for name, one in found.items():
        cells = one.cells(() if mixed else cuts, batch_size) + [""] * (mixed and len(cut))
        made.add_row(name, *cells, *map(_percent, (one.prompts, one.targets, one.pixels)))
    if mixed:
        pool = tuple(n for name, one in found.items() for n in one.used * ratios[name])
        made.add_row(MIXED, *Padding("", max(one.length for one in found.values()), pool).cells(cuts, batch_size))
    return made


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
