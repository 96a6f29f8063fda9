"""A trial, one training run of a sweep: its name, command, status and scores."""

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
from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason, naming_path
from hyperseg_jax.untrusted.printing import one_line

DONE = ("finished", "stopped")  # trials with these statuses are not run again
LOG_TAIL = 2**16
"""Number of bytes at the end of a log that are searched for its last line."""
MAX_LISTED = 50
"""Maximum number of metrics that an error for an unknown metric lists."""
STATUSES = ("waiting", "running", "submitted", "interrupted", "failed", *DONE)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run.

    values: {config field: value} of the fields that the sweep varies. config: path or name of the config. fixed: overrides
    ("x.y=value") of all trials. steps: config.train.steps of this trial. folder: contains records, logs and locks of all
    trials. workdirs: folder or bucket that contains the workdirs, by default `folder`.
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
        """A short hash of the values, which identifies the trial in job and file names."""
        return hashlib.sha256(json.dumps(sorted(self.values.items())).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """A readable name for the files of the trial. It depends only on the values, so it is the same in every sweep."""
        text = "_".join(f"{field.rpartition('.')[2]}={value}" for field, value in sorted(self.values.items()))
        return f"{re.sub(r'[^A-Za-z0-9._=+-]+', '-', text)[:80]}_{self.digest}"

    @property
    def workdir(self) -> str:
        return f"{self.workdirs or self.folder}/{self.name}"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / f"{self.name}.log"

    @property
    def lock(self) -> pathlib.Path:
        """The lock file of the training process."""
        return self.folder / f"{self.name}.lock"

    @property
    def record(self) -> pathlib.Path:
        """The JSON file with the status of the trial."""
        return self.folder / f"{self.name}.json"

    def flags(self) -> list[str]:
        """Returns the overrides as command-line options: --config.x.y=value for each."""
        return [f"--config.{text}" for text in (*self.fixed, *(f"{field}={value}" for field, value in self.values.items()))]

    def command(self) -> list[str]:
        """Returns the command that trains the trial, or resumes it."""
        return [sys.executable, "-m", self.training, "--config", self.config, "--workdir", self.workdir, *self.flags()]

    def metric_lines(self) -> Iterator[dict[str, Any]]:
        """Reads metrics.jsonl and yields its lines so far, without invalid ones."""
        return read_valid_lines(epath.Path(self.workdir) / "metrics.jsonl")  # type: ignore[arg-type]  # gs:// as well

    def is_complete(self) -> bool:
        """Returns whether training has logged its last step."""
        return any(line["kind"] == "train" and line["step"] >= self.steps for line in self.metric_lines())

    def last_log_line(self) -> str:
        """Returns the last non-empty line of the log, for messages."""
        lines: list[str] = []
        with contextlib.suppress(OSError, BadFile), paths.open_file(paths.check_link(self.log)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            lines = file.read(LOG_TAIL).decode(errors="replace").split("\n")
        return next((one_line(line.strip()) for line in reversed(lines) if line.strip()), "no output")

    def open_log(self) -> BinaryIO:
        """Opens the log for appending. Raises UserError if the path is not a regular file."""
        with naming_path(self.log):
            return paths.append_to(self.log)

    def status(self) -> str:
        """Returns the recorded status: waiting, running, submitted, interrupted, failed, stopped (early) or finished."""
        if not self.record.exists():
            return "waiting"
        try:
            status = strict_json.parse(strict_json.read_bytes(paths.check_link(self.record)), "its content").get("status")
            if type(status) is not str or status not in STATUSES:
                raise BadFile("its status is missing or unknown")
        except (OSError, BadFile) as error:
            raise UserError(
                f"{one_line(self.record)}: cannot be read as the record of a trial ({failure_reason(error)}); "
                "delete it to resume the trial"
            ) from error
        return status

    def set_status(self, status: str, reason: str = "") -> None:
        """Writes the record of the trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"status": status, "reason": reason, "values": dict(self.values), "workdir": self.workdir}
        write_text(self.record, json.dumps(record, indent=2) + "\n")


def classify_exit(trial: Trial, code: int) -> tuple[str, str]:
    """Returns (status, reason) of a trial whose training has exited with this code. Training that was asked to stop also exits
    with 0, before its last step; its status is "interrupted"."""
    if code:
        return "failed", f"exit code {code}: {trial.last_log_line()}"
    return ("finished", "") if trial.is_complete() else ("interrupted", "ended before its last step")


@dataclasses.dataclass(frozen=True)
class Metric:
    """The metric to compare trials by: a validation score TASK/NAME, or train/NAME for the training lines of all tasks."""

    task: str
    name: str
    mode: str  # max or min

    @classmethod
    def parse(cls, text: str, mode: str | None) -> Metric:
        """Parses TASK/NAME. mode: max or min; None means min for training metrics and max for validation scores."""
        task, slash, name = text.partition("/")
        if not (task and slash and name):
            raise UserError(f"--metric {text}: give TASK/NAME as in metrics.jsonl, such as referring/ciou, or train/loss")
        return cls(task, name, mode or ("min" if task == "train" else "max"))

    def __str__(self) -> str:
        return f"{self.task}/{self.name}"

    def scores(self, lines: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
        """Returns (step, value) of this metric in lines of metrics.jsonl, in order of steps, without non-finite values.
        Training lines of several tasks at one step are averaged, weighted by the number of steps that each covers."""
        values_by_step: dict[int, list[tuple[float, int]]] = {}
        for line in lines:
            value = line.get(self.name)
            if _metric_task(line) == self.task and isinstance(value, int | float) and math.isfinite(value):
                values_by_step.setdefault(line["step"], []).append((float(value), line.get("steps", 1)))
        mean = lambda pairs: sum(value * steps for value, steps in pairs) / sum(steps for _, steps in pairs)
        scores = ((step, pairs[0][0] if len(pairs) == 1 else mean(pairs)) for step, pairs in values_by_step.items())
        return sorted((step, value) for step, value in scores if math.isfinite(value))

    def is_better(self, score: float, reference: float) -> bool:
        """Returns whether `score` is better than `reference`."""
        return score > reference if self.mode == "max" else score < reference


def available_metrics(lines: Iterable[dict[str, Any]], most: int = MAX_LISTED) -> list[str]:
    """Returns the names (TASK/NAME) of the metrics in lines of metrics.jsonl, at most the first `most` in alphabetical
    order."""
    found: set[str] = set()
    for line in lines:
        numbers = (name for name, value in line.items() if isinstance(value, int | float) and name != "step")
        found.update(f"{_metric_task(line)}/{name}" for name in numbers)
        if len(found) > most:
            found = set(sorted(found)[:most])
    return sorted(found)


def _metric_task(line: dict[str, Any]) -> str:
    """Returns the task of a line of metrics.jsonl as in the name of its metrics: "train" for all training lines."""
    return "train" if line["kind"] == "train" else str(line["task"])
