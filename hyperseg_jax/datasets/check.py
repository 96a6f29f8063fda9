"""Reads every record of a benchmark and gathers all that is wrong with its files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.datasets.check_errors import ProblemCollector, collecting_problems
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import limits

T = TypeVar("T")

AT_ONCE = 256
NO_SPLIT = "(no split)"


@dataclasses.dataclass
class Report:
    """What a split holds, and what is wrong with it."""

    examples: int = 0
    prompts: int = 0
    masks: int = 0
    regions: int = 0
    collected: ProblemCollector = dataclasses.field(default_factory=ProblemCollector)

    @property
    def problem_count(self) -> int:
        return sum(self.collected.counts.values())

    def count(self, example: Example) -> None:
        self.examples += 1
        self.prompts += len(example.prompts)
        self.masks += sum(len(prompt.masks) for prompt in example.prompts if prompt.masks is not None)
        self.regions += sum(len(prompt.regions) for prompt in example.prompts)

    def attempt(self, read: Callable[[], T], what: str) -> T | None:
        """What `read` gives, or None where it raises over bad data, which is noted. what: is read, for messages."""
        with collecting_problems(self.collected):
            try:
                return read()
            except UserError as error:
                self.collected.note(getattr(error, "kind", "bad record"), record_errors.reason(error))
            except BaseException as error:
                self.collected.note("bad record", f"{what}: {record_errors.reason(error)}")
        return None


def check(
    open_reader: Callable[[], Sequence[Example]], advance: Callable[..., object], *, threads: int | None = None
) -> Report:
    """Opens a reader and reads all its records, whatever is wrong with some.

    advance: takes `completed`, how many records are read, and `total`. threads: that decode images, one a core by default.
    """
    report = Report()
    reader = report.attempt(lambda: _opened(open_reader), "the files")
    if reader is not None:
        _read_all(reader, lambda _: report, advance, threads)
    return report


def check_by_split(
    open_reader: Callable[[], Sequence[Example]], name: str, advance: Callable[..., object], *, threads: int | None = None
) -> dict[str, Report]:
    """`check` with a report for each split that the records themselves name (a reader with `split_of(index)`: your own folder).

    name: what everything is reported under where no record names a split. Else records without one are under NO_SPLIT.
    """
    whole = Report()
    reader = whole.attempt(lambda: _opened(open_reader), "the files")
    if reader is None:
        return {name: whole}
    split_of: Callable[[int], str] = getattr(reader, "split_of", lambda _: "")
    named = sorted({split_of(k) for k in range(len(reader))} - {""})
    rest = NO_SPLIT if named else name
    reports = {**{split: Report() for split in named}, rest: whole}
    _read_all(reader, lambda k: reports[split_of(k) or rest], advance, threads)
    if named and not (whole.examples or whole.problem_count):
        del reports[rest]
    return reports


def _opened(open_reader: Callable[[], Sequence[Example]]) -> Sequence[Example]:
    reader = open_reader()
    limits.check("records", len(reader), type(reader).__name__, "records")
    return reader


def _read_all(
    reader: Sequence[Example], report_of: Callable[[int], Report], advance: Callable[..., object], threads: int | None
) -> None:
    total = len(reader)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start in range(0, total, AT_ONCE):
            records = range(start, min(start + AT_ONCE, total))
            read = pool.map(lambda k: report_of(k).attempt(lambda: reader[k], f"record {k}"), records)
            for k, example in zip(records, read, strict=True):
                if example is not None:
                    report_of(k).count(example)
            advance(completed=records.stop, total=total)
