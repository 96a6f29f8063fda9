"""One benchmark scored from its first example to its last, on any number of hosts; a run that was killed is resumed."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from hyperseg_jax.atomic import write_text
from hyperseg_jax.data.sources import Task
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.benchmarks import Benchmark
from hyperseg_jax.evaluation.cases import Cases
from hyperseg_jax.evaluation.engine import Engine, finder, geometry_of, predictions
from hyperseg_jax.evaluation.replies import Reply
from hyperseg_jax.evaluation.scoring import SCORINGS, Scorer
from hyperseg_jax.evaluation.submissions import Row, row_of
from hyperseg_jax.parallel import hosts
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown


@dataclasses.dataclass
class Partial:
    """What is known after `done` examples, the same on all hosts. resumed: how many of them an earlier run had done."""

    scorer: Scorer
    cases: Cases
    rows: list[tuple[int, int, Row]]  # (example, prompt, row)
    done: int = 0
    resumed: int = 0

    def state(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"done": self.done, "scores": self.scorer.state(), "cases": self.cases.rows, "rows": self.rows}

    def merge(self, state: dict[str, Any]) -> None:
        """Adds the state of another host, or of a run before."""
        self.scorer.merge(state["scores"])
        self.cases.merge(state["cases"])
        self.rows = sorted([*self.rows, *((i, k, row) for i, k, row in state["rows"])], key=lambda row: row[:2])


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
) -> Partial:
    """Scores the examples of task.val, or the first `limit`.

    kept: the file that holds the partial state, written every save_every batches and at the end; what it holds is gone on
    from. asked: what tells this evaluation from another; UserError where the file was written by another.
    """
    examples: Any = task.val
    count = min(len(examples), limit or len(examples))
    asked = {**(asked or {}), "benchmark": task.name, "rules": rules, "examples": count}
    scoring = benchmark.scoring if benchmark.truth else "unscored"
    new = lambda: Partial(Scorer({benchmark.task: scoring}, rules), Cases(), [])
    total, fresh = new(), new()
    if told := hosts.exchange_long(f"{task.name} so far", _read(kept, asked) if hosts.leads() else "")[0]:
        state = json.loads(told)
        total.merge(state)
        total.done = total.resumed = state["done"]
    progress(total.done, count)
    answered = predictions(
        engine,
        task,
        examples,
        functools.partial(_reply, benchmark, task),
        start=total.done,
        count=count,
        batch_size=batch_size,
        writes=SCORINGS[benchmark.scoring].find is None,
        lengthens=True,
        unread=functools.partial(_refuse, task.name),
        workers=workers,
    )
    for number, (done, replies) in enumerate(answered, 1):
        for index, reply in replies:
            _count(fresh, benchmark, index, reply)
        progress(done, count)
        if number % save_every == 0 or done == count:
            for text in hosts.exchange_long(f"{task.name} to {done}", json.dumps(fresh.state())):
                total.merge(json.loads(text))
            total.done, fresh = done, new()
            if kept is not None and hosts.leads():
                write_text(kept, json.dumps({"asked": asked, **total.state()}))
    return total


def _read(kept: pathlib.Path | None, asked: dict[str, Any]) -> str:
    if kept is None or not kept.exists():
        return ""
    try:
        state = strict_json.parse_any(strict_json.contents(kept), "its content", finite=False)
        other = [key for key in asked if state["asked"].get(key) != asked[key]]
        state["done"], state["scores"], state["cases"], state["rows"]
    except (BadFile, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{kept}: is not a partial evaluation ({shown(str(error))}); remove it to start anew") from error
    if other:
        key = other[0]
        raise UserError(
            f"{kept}: is of an evaluation with {key} = {state['asked'].get(key)!r}, this one has {asked[key]!r}; "
            "give another --out, or remove the file to start anew"
        )
    return json.dumps(state)


def _count(fresh: Partial, benchmark: Benchmark, index: int, reply: Reply) -> None:
    for k, (prompt, found) in enumerate(reply.answers()):
        value = fresh.scorer.add(reply.example.name, prompt, found)
        fresh.cases.add(value, index, k, found[0])
        if benchmark.submission:
            fresh.rows.append((index, k, row_of(reply.example, prompt, found)))


def _refuse(name: str, index: int, reason: str) -> None:
    """A benchmark's score is of all its records."""
    raise UserError(f"benchmark {name} record {index}: {reason}")


def _reply(benchmark: Benchmark, task: Task, example: Example) -> Reply:
    scoring = SCORINGS[benchmark.scoring]
    other = {prompt.task for prompt in example.prompts} - {benchmark.task}
    if other:
        raise UserError(f"{example.name}: a {other.pop()} prompt in a benchmark of {benchmark.task}")
    return scoring.reply(example, finder(scoring.find, geometry_of(example, task.sizes), benchmark.thresholds))
