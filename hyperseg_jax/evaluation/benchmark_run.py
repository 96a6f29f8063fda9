"""Runs a benchmark on any number of hosts. A killed run is resumed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from hyperseg_jax.atomic import write_text
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import Terminated, UserError
from hyperseg_jax.evaluation import qualitative, submissions
from hyperseg_jax.evaluation.benchmarks import Benchmark
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, make_prediction_fn, run_protocols
from hyperseg_jax.evaluation.protocols import EvalProtocol
from hyperseg_jax.evaluation.qualitative import QualitativeExamples
from hyperseg_jax.evaluation.scoring import SCORINGS, Scorer
from hyperseg_jax.evaluation.submissions import Row, check_question, make_row
from hyperseg_jax.parallel import hosts
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, converting_exceptions, failure_reason
from hyperseg_jax.untrusted.printing import escaped

MAX_BYTES, MAX_PARTS = 2**30, 50_000_000
"""Limits for the size of a state file, and for its number of values and containers."""


@dataclasses.dataclass
class PartialResults:
    """Results of the first `done` examples, the same on all hosts. resumed: number of examples that an earlier run had done."""

    scorer: Scorer
    cases: QualitativeExamples
    rows: list[tuple[int, int, Row]]  # (example, prompt, row)
    done: int = 0
    resumed: int = 0
    _question_at: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return {"done": self.done, "scores": self.scorer.state(), "cases": self.cases.rows, "rows": self.rows}

    def load(self, state: dict[str, Any], count: int, submission: str, examples: Any) -> None:
        """Adds the state of a file to this empty instance. Raises BadFile or another error if no run over the first `count`
        examples wrote it. submission: format of the answers, "" without answers."""
        done = state["done"]
        if type(done) is not int or not 0 < done <= count:
            raise BadFile(f"it contains {escaped(str(done))} of {count} examples")
        qualitative.check_rows(state["cases"], done, examples)
        if submission:
            submissions.check_rows(submission, state["rows"], done, examples)
            submissions.compare_rows(state["rows"], done, examples)
        elif state["rows"]:
            raise BadFile("it has answers for a server, but the benchmark has no server")
        self.merge(state)
        for updates in self.scorer.updates.values() or (0,):
            if updates is not None and (updates < done or (submission and updates != len(self.rows))):
                raise BadFile(f"it has scores of {updates} prompts for {done} examples")

    def merge(self, state: dict[str, Any]) -> None:
        """Adds the state of another host or an earlier run. Raises ValueError if it is invalid or has results that exist
        already."""
        self.scorer.merge(state["scores"])
        self.cases.merge(state["cases"])
        for i, k, row in state["rows"]:
            if (first := self._question_at.setdefault(row["key"], (i, k))) != (i, k):
                raise ValueError(f"record {i} repeats the question {row['key']!r} of record {first[0]}")
            self.rows.append((i, k, row))
        self.rows.sort(key=lambda row: row[:2])


def run(
    engine: Engine,
    benchmark: Benchmark,
    task: Task,
    *,
    rules: str = "official",
    limit: int | None = None,
    batch_size: int = 12,
    state_file: pathlib.Path | None = None,
    settings: dict[str, Any] | None = None,
    save_every: int = 20,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, count: None,
    log: Callable[[str], None] = print,
) -> PartialResults:
    """Scores all examples of task.val, or the first `limit`.

    state_file: file of the partial results, written every `save_every` batches and at the end. If it exists, the run resumes
    from it. settings: settings that the file must match; raises UserError if another evaluation wrote it. log: receives a line
    if the file is invalid; it is then moved aside, and all examples are scored.

    In a multi-process run, raises Terminated after the next batch if a process got SIGTERM, with the partial results written.
    """
    examples: Any = task.val
    count = min(len(examples), limit or len(examples))
    settings = {**(settings or {}), "benchmark": task.name, "rules": rules, "examples": count}
    scoring = benchmark.scoring if benchmark.truth else "no_ground_truth"
    options = AnswerOptions(
        SCORINGS[benchmark.scoring].kind, engine.answers.published if benchmark.published else engine.answers.default
    )
    new = lambda: PartialResults(Scorer({benchmark.task: scoring}, rules), QualitativeExamples(), [])
    total, new_results = new(), new()
    saved = ""
    if state_file is not None and os.path.lexists(state_file) and hosts.is_primary():
        try:
            saved = _read_state(state_file, settings, new(), benchmark, examples)
        except (BadFile, OSError) as error:
            aside = paths.rename_damaged(state_file).name
            log(f"{state_file}: is not a partial evaluation ({failure_reason(error)}); renamed to {aside}, starting again")
    if resumed := hosts.exchange_long(f"{task.name} so far", saved)[0]:
        state = json.loads(resumed)
        total.merge(state)
        total.done = total.resumed = state["done"]
    progress(total.done, count)
    finished = run_protocols(
        engine,
        task,
        examples,
        functools.partial(_make_protocol, engine, benchmark, task, options),
        start=total.done,
        count=count,
        batch_size=batch_size,
        options=options,
        on_unreadable=functools.partial(_raise_unreadable, task.name),
        workers=workers,
    )
    for number, (done, protocols) in enumerate(finished, 1):
        for index, protocol in protocols:
            try:
                _add_results(new_results, benchmark, index, protocol)
            except BaseException as error:
                _raise_unreadable(task.name, index, record_errors.error_message(error))
        progress(done, count)
        is_stopped = done < count and hosts.reached_stop_in_evaluation()
        if number % save_every == 0 or done == count or is_stopped:
            states = hosts.exchange_long(f"{task.name} to {done}", json.dumps(new_results.state()))
            try:
                for text in states:
                    total.merge(json.loads(text))
            except ValueError as error:
                if not resumed:
                    raise UserError(f"benchmark {task.name}: {escaped(str(error))}; correct its files") from error
                raise UserError(
                    f"{state_file}: does not fit the examples ({escaped(str(error))}); remove it to start again"
                ) from error
            total.done, new_results = done, new()
            if state_file is not None and hosts.is_primary():
                write_text(state_file, json.dumps({"asked": settings, **total.state()}))
        if is_stopped:
            how = "; run the same command to resume" if state_file is not None else ""
            raise Terminated(f"{task.name}: stopped after {done} of {count} examples{how}")
    return total


def _read_state(
    state_file: pathlib.Path, settings: dict[str, Any], new: PartialResults, benchmark: Benchmark, examples: Any
) -> str:
    """Returns the validated state of a file as JSON text. Raises BadFile if it is invalid, UserError if another evaluation
    wrote it."""
    with converting_exceptions("it has other fields"):
        state = strict_json.parse_any(
            strict_json.read_bytes(paths.check_link(state_file), MAX_BYTES), "its content", finite=False, parts=MAX_PARTS
        )
        for key, value in settings.items():
            if (other := state["asked"].get(key)) != value:
                raise UserError(
                    f"{state_file}: is from an evaluation with {key} = {escaped(repr(other))}, not {escaped(repr(value))}; "
                    "use another --out, or remove the file to start again"
                )
        new.load(state, settings["examples"], benchmark.submission, examples)
    return json.dumps(state)


def _add_results(new_results: PartialResults, benchmark: Benchmark, index: int, protocol: EvalProtocol) -> None:
    """Scores a finished example, and keeps its rows for the evaluation server if the benchmark has one."""
    for k, (prompt, predictions_by_frame) in enumerate(protocol.answers()):
        value = new_results.scorer.add(protocol.example.name, prompt, predictions_by_frame)
        new_results.cases.add(value, index, k, predictions_by_frame[-1])
        if benchmark.submission:
            new_results.rows.append((index, k, make_row(protocol.example, prompt, predictions_by_frame)))


def _raise_unreadable(name: str, index: int, reason: str) -> None:
    """Raises UserError, because a benchmark score must include all records."""
    raise UserError(f"benchmark {name} record {index}: {reason}")


def _make_protocol(engine: Engine, benchmark: Benchmark, task: Task, options: AnswerOptions, example: Example) -> EvalProtocol:
    other_tasks = {prompt.task for prompt in example.prompts} - {benchmark.task}
    if other_tasks:
        raise UserError(f"{example.name}: has a {other_tasks.pop()} prompt in a benchmark of {benchmark.task}")
    for prompt in example.prompts:
        check_question(benchmark.submission, example, prompt)
    geometry = task.processor.geometry(*example.frames.shape[1:3])
    predict = make_prediction_fn(engine, options, geometry)
    together = task.processor.prompts if benchmark.together > 1 else 1
    references, interactive = engine.reference_frames, engine.interactive
    return benchmark.make_protocol(example, predict, references, interactive=interactive, together=together)
