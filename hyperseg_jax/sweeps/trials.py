"""A trial: one training of a sweep. Its name, its command, what became of it, and its scores."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from etils import epath

from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.training.observers import valid_lines
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, naming
from hyperseg_jax.untrusted.printing import one_line

DONE = ("finished", "stopped")  # these are not run again
LAST = 2**16
"""Bytes at the end of a log that are looked at."""
SEEN = 50
"""Metrics that are listed where the wanted one is not there."""
STATUSES = ("waiting", "running", "submitted", "interrupted", "failed", *DONE)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training.

    values: the fields that the sweep varies. fixed: overrides ("x.y=value") of every trial. steps: config.train.steps of this
    trial. folder: where sweeps keep records, logs and locks. workdirs: where the workdirs lie, folder itself by default; it
    may be a bucket.
    """

    values: Mapping[str, str]
    config: str
    fixed: tuple[str, ...]
    steps: int
    folder: pathlib.Path
    workdirs: str = ""
    training: str = "hyperseg_jax.train"  # the module that trains

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(sorted(self.values.items())).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """From the values alone: short to read, safe as a file name, and the same in every sweep."""
        told = "_".join(f"{field.rpartition('.')[2]}={value}" for field, value in sorted(self.values.items()))
        return f"{re.sub(r'[^A-Za-z0-9._=+-]+', '-', told)[:80]}_{self.digest}"

    @property
    def workdir(self) -> str:
        return f"{self.workdirs or self.folder}/{self.name}"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / f"{self.name}.log"

    @property
    def lock(self) -> pathlib.Path:
        """Held by the process that trains, wherever it was started from."""
        return self.folder / f"{self.name}.lock"

    @property
    def record(self) -> pathlib.Path:
        return self.folder / f"{self.name}.json"

    def flags(self) -> list[str]:
        """--config.x.y=value for all that differs from the config file."""
        return [f"--config.{text}" for text in (*self.fixed, *(f"{field}={value}" for field, value in self.values.items()))]

    def command(self) -> list[str]:
        """What trains it; the same line goes on after a stop or a kill."""
        return [sys.executable, "-m", self.training, "--config", self.config, "--workdir", self.workdir, *self.flags()]

    def lines(self) -> Iterator[dict[str, Any]]:
        """What its run has written to metrics.jsonl so far, line by line."""
        return valid_lines(epath.Path(self.workdir) / "metrics.jsonl")  # type: ignore[arg-type]  # gs:// as well

    def is_complete(self) -> bool:
        """Whether the last step has been logged."""
        return any(line["kind"] == "train" and line["step"] >= self.steps for line in self.lines())

    def last_log_line(self) -> str:
        """The last line of its log, for messages."""
        words: list[str] = []
        with contextlib.suppress(OSError, BadFile), paths.open_file(paths.own(self.log)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST))
            words = file.read(LAST).decode(errors="replace").split("\n")
        return next((one_line(line.strip()) for line in reversed(words) if line.strip()), "no output")

    def open_log(self) -> BinaryIO:
        """Its log, to add to. UserError where something else stands there."""
        with naming(self.log):
            return paths.append_to(self.log)

    def status(self) -> str:
        """waiting, running, submitted, interrupted, failed, stopped (early) or finished."""
        if not self.record.exists():
            return "waiting"
        try:
            status = strict_json.parse(strict_json.contents(paths.own(self.record)), "its content").get("status")
            if type(status) is not str or status not in STATUSES:
                raise BadFile("it has no status")
        except (OSError, BadFile) as error:
            raise UserError(
                f"{one_line(self.record)}: not a readable record ({error}); delete it, the trial goes on"
            ) from error
        return status

    def set_status(self, status: str, reason: str = "") -> None:
        """Records what became of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"status": status, "reason": reason, "values": dict(self.values), "workdir": self.workdir}
        write_text(self.record, json.dumps(facts, indent=2) + "\n")


def outcome(trial: Trial, code: int) -> tuple[str, str]:
    """(status, reason) of a training that ended with an exit code. One that was asked to stop ends with 0 before its end."""
    if code:
        return "failed", f"exit code {code}: {trial.last_log_line()}"
    return ("finished", "") if trial.is_complete() else ("interrupted", "ended before its last step")


@dataclasses.dataclass(frozen=True)
class Metric:
    """What trials are compared by: a validation score TASK/NAME, or train/NAME of the training lines of any task."""

    task: str
    name: str
    mode: str  # max or min

    @classmethod
    def parse(cls, text: str, mode: str | None) -> Metric:
        """mode: max or min; without one, min for training lines and max for validation scores."""
        task, slash, name = text.partition("/")
        if not (task and slash and name):
            raise UserError(f"--metric {text}: give TASK/NAME as in metrics.jsonl, such as referring/ciou, or train/loss")
        return cls(task, name, mode or ("min" if task == "train" else "max"))

    def __str__(self) -> str:
        return f"{self.task}/{self.name}"

    def scores(self, lines: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
        """(step, value) in the order of steps; what is no finite number is left out. Of the training lines of several tasks at
        one step, the mean over their steps."""
        found: dict[int, list[tuple[float, int]]] = {}
        for line in lines:
            value = line.get(self.name)
            if _key(line) == self.task and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(line["step"], []).append((float(value), line.get("steps", 1)))
        total = lambda pairs: sum(value * steps for value, steps in pairs) / sum(steps for _, steps in pairs)
        scores = ((step, pairs[0][0] if len(pairs) == 1 else total(pairs)) for step, pairs in found.items())
        return sorted((step, value) for step, value in scores if math.isfinite(value))

    def better(self, one: float, other: float) -> bool:
        return one > other if self.mode == "max" else one < other


def available_metrics(lines: Iterable[dict[str, Any]], most: int = SEEN) -> list[str]:
    """The metrics that these lines could be compared by, or the first so many of them."""
    found: set[str] = set()
    for line in lines:
        numbers = (name for name, value in line.items() if isinstance(value, int | float) and name != "step")
        found.update(f"{_key(line)}/{name}" for name in numbers)
        if len(found) > most:
            found = set(sorted(found)[:most])
    return sorted(found)


def _key(line: dict[str, Any]) -> str:
    return "train" if line["kind"] == "train" else str(line["task"])
