"""Reads every record of a benchmark and gathers all that is wrong with its files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hyperseg_jax.datasets.problems import Collected, collecting
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example

AT_ONCE = 256
MISREAD = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)
"""What a reader may stumble over in a record of another make, UserError among them."""


@dataclasses.dataclass
class Report:
    """What a split holds, and what is wrong with it."""

    examples: int = 0
    prompts: int = 0
    masks: int = 0
    regions: int = 0
    collected: Collected = dataclasses.field(default_factory=Collected)

    @property
    def faults(self) -> int:
        return sum(self.collected.counts.values())


def check(
    open_reader: Callable[[], Sequence[Example]], advance: Callable[..., object], *, threads: int | None = None
) -> Report:
    """Opens a reader and reads all its records, whatever is wrong with some.

    advance: takes `completed`, how many records are read, and `total`. threads: that decode pictures, one a core by default.
    """
    report = Report()

    def attempt(read: Callable[[], Sequence[Example] | Example], what: str) -> Sequence[Example] | Example | None:
        with collecting(report.collected):
            try:
                return read()
            except UserError as error:
                report.collected.note(getattr(error, "kind", "bad record"), str(error))
            except MISREAD as error:
                report.collected.note("bad record", f"{what}: is of another make ({type(error).__name__}: {error})")
        return None

    reader = attempt(open_reader, "the files")
    if reader is None:
        return report
    assert not isinstance(reader, Example)
    total = len(reader)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start in range(0, total, AT_ONCE):
            stop = min(start + AT_ONCE, total)
            for example in pool.map(lambda k: attempt(lambda: reader[k], f"record {k}"), range(start, stop)):
                if isinstance(example, Example):
                    report.examples += 1
                    report.prompts += len(example.prompts)
                    report.masks += sum(len(prompt.masks) for prompt in example.prompts if prompt.masks is not None)
                    report.regions += sum(len(prompt.regions) for prompt in example.prompts if prompt.regions is not None)
            advance(completed=stop, total=total)
    return report
