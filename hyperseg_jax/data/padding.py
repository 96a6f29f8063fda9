"""How much of a task's batches is padding, measured on some of its records, and the length that would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from hyperseg_jax.data import faults
from hyperseg_jax.data.sources import Task
from hyperseg_jax.llms.splice import Source

RECORDS = 32
"""So many are drawn of a task."""
BATCHES = 200
"""So many batches are drawn of their lengths."""
STEP = 16
"""Positions that a proposed length is a multiple of."""


@dataclasses.dataclass(frozen=True)
class Padding:
    """What was found of one task. read: records that could be read, of those that were drawn. fault: what was wrong with the
    first of the others.

    length: positions of a batch; longest: the most that an element took. tokens, prompts, targets, pixels: the part of the
    positions, places of prompts, places of targets (of the prompts that are there) and pixels that is padding. after_cuts: that
    of the positions, once batches are cut.
    """

    read: int
    fault: str
    length: int = 0
    longest: int = 0
    tokens: float = 0.0
    after_cuts: float = 0.0
    prompts: float = 0.0
    targets: float = 0.0
    pixels: float = 0.0

    @property
    def proposed(self) -> int:
        """The shortest length, a multiple of STEP, that holds every element that was drawn."""
        return -(-self.longest // STEP) * STEP


def measure(task: Task, *, seed: int, batch_size: int, cuts: Sequence[int] = (), records: int = RECORDS) -> Padding:
    """Draws training records of a task, the same everywhere, and makes them into arrays as the stream does. cuts: see
    training/cuts.py."""
    rng = np.random.default_rng(seed)
    train = task.train or ()
    made, fault = [], ""
    for k in rng.permutation(len(train))[:records]:
        try:
            arrays = task.prepare(train[int(k)], np.random.default_rng([seed, int(k)]))
        except faults.UNREADABLE as error:
            fault = fault or f"record {k}: {faults.reason(error)}"
            continue
        asked = (arrays["layout"]["prompt"].max(), len(arrays["valid"]))
        made.append((int((arrays["layout"]["source"] != Source.PADDING).sum()), *asked, int(arrays["valid"].sum()),
                     int(np.prod(arrays["filled"])) * int(arrays["frame_valid"].sum())))  # fmt: skip
    if not made:
        return Padding(0, fault or "there are none")
    sizes = task.train_sizes
    used, prompts, slots, targets, pixels = np.asarray(made).T
    buckets = np.array(sorted({*(n for n in cuts if n < sizes.length), sizes.length}))
    longest = rng.choice(used, (BATCHES, batch_size)).max(1)
    free = lambda taken, room: float(1 - taken.sum() / max(room, 1))
    return Padding(len(made), fault, sizes.length, int(used.max()), tokens=free(used, len(made) * sizes.length),
                   after_cuts=float(1 - used.mean() / buckets[np.searchsorted(buckets, longest)].mean()),
                   prompts=free(prompts, slots.sum()), targets=free(targets, prompts.sum() * sizes.targets),
                   pixels=free(pixels, len(made) * sizes.frames * sizes.image_size**2))  # fmt: skip


def table(found: Mapping[str, Padding], cuts: Sequence[int] = ()) -> Table:
    """One line a task."""
    part = lambda value: f"{100 * value:.0f} %"
    parts = ["positions", *(["after cuts"] if cuts else []), "prompts", "targets", "pixels"]
    title = f"padding of the training batches, by {RECORDS} records of each task"
    made = Table("task", "length", "longest", "would do", *parts, title=title)
    for name, one in found.items():
        after = [part(one.after_cuts)] if cuts else []
        made.add_row(name, str(one.length), str(one.longest), str(one.proposed), part(one.tokens), *after,
                     *map(part, (one.prompts, one.targets, one.pixels)))  # fmt: skip
    return made
