"""Reads every record of a dataset and collects all problems of its files (`hyperseg data check`)."""

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

CHUNK_SIZE = 256
NO_SPLIT = "(no split)"


@dataclasses.dataclass
class Report:
    """Statistics and problems of one split. notes: what its reader left out, a line each."""

    examples: int = 0
    prompts: int = 0
    masks: int = 0
    regions: int = 0
    notes: tuple[str, ...] = ()
    collected: ProblemCollector = dataclasses.field(default_factory=ProblemCollector)

    @property
    def problem_count(self) -> int:
        return sum(self.collected.counts.values())

    def count_example(self, example: Example) -> None:
        self.examples += 1
        self.prompts += len(example.prompts)
        self.masks += sum(len(prompt.masks) for prompt in example.prompts if prompt.masks is not None)
        self.regions += sum(len(prompt.regions) for prompt in example.prompts)

    def attempt(self, read: Callable[[], T], what: str) -> T | None:
        """Returns `read()`, or None if it raises; the error is added to the collected problems. what: the data being read, for
        messages."""
        with collecting_problems(self.collected):
            try:
                return read()
            except UserError as error:
                self.collected.add(getattr(error, "kind", "bad record"), record_errors.error_message(error))
            except BaseException as error:
                self.collected.add("bad record", f"{what}: {record_errors.error_message(error)}")
        return None


def check_reader(
    open_reader: Callable[[], Sequence[Example]], advance: Callable[..., object], *, threads: int | None = None
) -> Report:
    """Opens a reader and reads all its records, continuing after errors.

    advance: called with `completed` (records read so far) and `total`. threads: number of decoding threads, by default one per
    core.
    """
    report = Report()
    reader = report.attempt(lambda: _open_within_limits(open_reader), "the files")
    if reader is not None:
        report.notes = notes_of(reader)
        _read_all(reader, lambda _: report, advance, threads)
    return report


def check_by_split(
    open_reader: Callable[[], Sequence[Example]], name: str, advance: Callable[..., object], *, threads: int | None = None
) -> dict[str, Report]:
    """Like `check_reader`, with a separate report for each split that the records name (readers with `split_of(index)`, such as
    Folder).

    name: the key of the report if no record names a split. Otherwise, records without a split are reported under NO_SPLIT.
    """
    default = Report()
    reader = default.attempt(lambda: _open_within_limits(open_reader), "the files")
    if reader is None:
        return {name: default}
    default.notes = notes_of(reader)
    split_of: Callable[[int], str] = getattr(reader, "split_of", lambda _: "")
    named = sorted({split_of(k) for k in range(len(reader))} - {""})
    unnamed = NO_SPLIT if named else name
    reports = {**{split: Report() for split in named}, unnamed: default}
    _read_all(reader, lambda k: reports[split_of(k) or unnamed], advance, threads)
    if named and not (default.examples or default.problem_count or default.notes):
        del reports[unnamed]
    return reports


def notes_of(reader: object) -> tuple[str, ...]:
    """Returns lines about what a reader left out: its attribute `notes`, if it has one."""
    notes: tuple[str, ...] = getattr(reader, "notes", ())
    return notes


def _open_within_limits(open_reader: Callable[[], Sequence[Example]]) -> Sequence[Example]:
    """Opens a reader. Raises UserError if it has more than limits.records records."""
    reader = open_reader()
    limits.check_limit("records", len(reader), type(reader).__name__, "records")
    return reader


def _read_all(
    reader: Sequence[Example], report_of: Callable[[int], Report], advance: Callable[..., object], threads: int | None
) -> None:
    """Reads all records in threads and adds each to `report_of(index)`; errors are added there as well."""
    total = len(reader)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start in range(0, total, CHUNK_SIZE):
            records = range(start, min(start + CHUNK_SIZE, total))
            read = pool.map(lambda k: report_of(k).attempt(lambda: reader[k], f"record {k}"), records)
            for k, example in zip(records, read, strict=True):
                if example is not None:
                    report_of(k).count_example(example)
            advance(completed=records.stop, total=total)
