"""One benchmark scored from its first example to its last, on any number of hosts; a run that was killed is resumed."""

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
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.benchmarks import Benchmark
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, prediction_fn, predictions
from hyperseg_jax.evaluation.protocols import EvalProtocol
from hyperseg_jax.evaluation.qualitative import QualitativeExamples, is_example_row
from hyperseg_jax.evaluation.scoring import SCORINGS, Scorer
from hyperseg_jax.evaluation.submissions import Row, check_question, is_row, make_row
from hyperseg_jax.parallel import hosts
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, reason, without_panics
from hyperseg_jax.untrusted.printing import shown

LARGEST, PARTS = 2**30, 50_000_000
"""Bytes of a partial state, and its values and containers."""


@dataclasses.dataclass
class PartialResults:
    """What is known after `done` examples, the same on all hosts. resumed: how many of them an earlier run had done."""

    scorer: Scorer
    cases: QualitativeExamples
    rows: list[tuple[int, int, Row]]  # (example, prompt, row)
    done: int = 0
    resumed: int = 0
    _asked: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"done": self.done, "scores": self.scorer.state(), "cases": self.cases.rows, "rows": self.rows}

    def check(self, state: dict[str, Any], count: int) -> None:
        """BadFile or others where no run over `count` examples gave the state. What is counted is checked as it is merged."""
        whole = lambda value, below: type(value) is int and 0 <= value < below
        if not (whole(state["done"], count + 1) and state["done"]):
            raise BadFile(f"it has done {shown(str(state['done']))} of {count} examples")
        if not all(is_example_row(row) and row["index"] < count for row in state["cases"]):
            raise BadFile("it has a best or worst case in an unexpected format")
        if not all(whole(i, count) and whole(k, 2**31) and is_row(row) for i, k, row in state["rows"]):
            raise BadFile("it has an answer in an unexpected format")

    def merge(self, state: dict[str, Any]) -> None:
        """Adds the state of another host, or of a run before. ValueError where it has what is there already, or is none."""
        self.scorer.merge(state["scores"])
        self.cases.merge(state["cases"])
        for i, k, row in state["rows"]:
            if (first := self._asked.setdefault(row["key"], (i, k))) != (i, k):
                raise ValueError(f"record {i} asks the question {row['key']!r} of record {first[0]} again")
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
    kept: pathlib.Path | None = None,
    asked: dict[str, Any] | None = None,
    save_every: int = 20,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, count: None,
    log: Callable[[str], None] = print,
) -> PartialResults:
    """Scores the examples of task.val, or the first `limit`.

    kept: the file that holds the partial state, written every save_every batches and at the end; what it holds is gone on
    from. asked: what tells this evaluation from another; UserError where the file was written by another. log: takes the line
    about a file that no evaluation wrote; it is put aside, and all examples are scored.
    """
    examples: Any = task.val
    count = min(len(examples), limit or len(examples))
    asked = {**(asked or {}), "benchmark": task.name, "rules": rules, "examples": count}
    scoring = benchmark.scoring if benchmark.truth else "no_ground_truth"
    options = AnswerOptions(
        SCORINGS[benchmark.scoring].kind, engine.answers.published if benchmark.published else engine.answers.usual
    )
    new = lambda: PartialResults(Scorer({benchmark.task: scoring}, rules), QualitativeExamples(), [])
    total, fresh = new(), new()
    before = ""
    if kept is not None and os.path.lexists(kept) and hosts.is_primary():
        try:
            before = _read(kept, asked, new(), benchmark)
        except (BadFile, OSError) as error:
            aside = paths.put_aside(kept).name
            log(f"{kept}: is not a partial evaluation ({reason(error)}); it is now {aside}, and all is scored anew")
    if told := hosts.exchange_long(f"{task.name} so far", before)[0]:
        state = json.loads(told)
        total.merge(state)
        total.done = total.resumed = state["done"]
    progress(total.done, count)
    answered = predictions(
        engine,
        task,
        examples,
        functools.partial(_protocol, engine, benchmark, task, options),
        start=total.done,
        count=count,
        batch_size=batch_size,
        options=options,
        unread=functools.partial(_refuse, task.name),
        workers=workers,
    )
    for number, (done, protocols) in enumerate(answered, 1):
        for index, protocol in protocols:
            _count(fresh, benchmark, index, protocol)
        progress(done, count)
        if number % save_every == 0 or done == count:
            states = hosts.exchange_long(f"{task.name} to {done}", json.dumps(fresh.state()))
            try:
                for text in states:
                    total.merge(json.loads(text))
            except ValueError as error:
                if not told:
                    raise UserError(f"benchmark {task.name}: {shown(str(error))}; correct its files") from error
                raise UserError(f"{kept}: does not fit the examples ({shown(str(error))}); remove it to start anew") from error
            total.done, fresh = done, new()
            if kept is not None and hosts.is_primary():
                write_text(kept, json.dumps({"asked": asked, **total.state()}))
    return total


def _read(kept: pathlib.Path, asked: dict[str, Any], new: PartialResults, benchmark: Benchmark) -> str:
    """The state in a file, checked, as text. BadFile where no evaluation wrote it, UserError where another one did."""
    with without_panics("it has other fields"):
        state = strict_json.parse_any(strict_json.contents(paths.own(kept), LARGEST), "its content", finite=False, parts=PARTS)
        for key, value in asked.items():
            if (other := state["asked"].get(key)) != value:
                raise UserError(
                    f"{kept}: is of an evaluation with {key} = {shown(repr(other))}, this one has {shown(repr(value))}; "
                    "give another --out, or remove the file to start anew"
                )
        new.check(state, asked["examples"])
        if state["rows"] and not benchmark.submission:
            raise BadFile("it has answers for a server, and there is none")
        new.merge(state)
    return json.dumps(state)


def _count(fresh: PartialResults, benchmark: Benchmark, index: int, protocol: EvalProtocol) -> None:
    for k, (prompt, found) in enumerate(protocol.answers()):
        value = fresh.scorer.add(protocol.example.name, prompt, found)
        fresh.cases.add(value, index, k, found[0])
        if benchmark.submission:
            fresh.rows.append((index, k, make_row(protocol.example, prompt, found)))


def _refuse(name: str, index: int, reason: str) -> None:
    """A benchmark's score is of all its records."""
    raise UserError(f"benchmark {name} record {index}: {reason}")


def _protocol(engine: Engine, benchmark: Benchmark, task: Task, options: AnswerOptions, example: Example) -> EvalProtocol:
    other = {prompt.task for prompt in example.prompts} - {benchmark.task}
    if other:
        raise UserError(f"{example.name}: a {other.pop()} prompt in a benchmark of {benchmark.task}")
    for prompt in example.prompts:
        check_question(benchmark.submission, example, prompt)
    geometry = task.processor.geometry(*example.frames.shape[1:3])
    scoring = SCORINGS[benchmark.scoring]
    protocol = scoring.interactive or scoring.protocol if engine.interactive else scoring.protocol
    return protocol(example, prediction_fn(engine, options, geometry))
