"""One benchmark scored from its first example to its last, on any number of hosts, going on where a killed run stopped."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from hyperseg_jax.atomic import write_text
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import faults
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.benchmarks import Benchmark
from hyperseg_jax.evaluation.cases import Cases
from hyperseg_jax.evaluation.found import Found
from hyperseg_jax.evaluation.replies import Reply
from hyperseg_jax.evaluation.scoring import SCORINGS, Scorer
from hyperseg_jax.evaluation.submissions import Row, row_of
from hyperseg_jax.ops.transforms import fit
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import ALONE, Feed
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.layout import TokenCounts, expanded_length
from hyperseg_jax.text.prompts import tokenize

NEW_TOKENS = 64
"""Of a written answer (HyperSeg's evaluation)."""
STEP = 64
"""Positions: what longer prompts than the config has room for are rounded up to; a program is compiled for each length."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """A model that answers. predict, write: the system's jitted functions (params, batch, ...), write None where it writes
    nothing. feed: how batches lie on the mesh."""

    predict: Callable[..., Any]
    write: Callable[..., Any] | None
    params: Any
    feed: Feed = ALONE


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
    runner: Runner,
    benchmark: Benchmark,
    task: Task,
    *,
    rules: str = "official",
    limit: int | None = None,
    batch_size: int = 12,
    kept: pathlib.Path | None = None,
    asked: dict[str, Any] | None = None,
    save_every: int = 20,
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
    size = runner.feed.size(batch_size)
    for number, start in enumerate(range(total.done, count, size), 1):
        for index, reply in _answers(runner, benchmark, task, start, min(start + size, count), size):
            _count(fresh, benchmark, index, reply)
        done = min(start + size, count)
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
        state = json.loads(kept.read_text(encoding="utf-8"))
        other = [key for key in asked if state["asked"].get(key) != asked[key]]
        state["done"], state["scores"], state["cases"], state["rows"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{kept}: is not a partial evaluation ({error}); remove it to start anew") from error
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


def _answers(runner: Runner, benchmark: Benchmark, task: Task, start: int, stop: int, size: int) -> Iterator[tuple[int, Reply]]:
    """(number, answered example) of those of start..stop that this host scores.

    A batch has `size` rows whatever is left, and examples wait for the one with the most steps and prompts, so that all hosts
    call the device alike. A clip goes through one frame at a time, what the model saw of a frame feeds the next: the device
    holds one frame of each.
    """
    rows = runner.feed.rows(size)
    reply = lambda index: _reply(benchmark, task, _record(task, index))
    mine = {row: reply(start + row) for row in rows.places if start + row < stop}
    filler = next(iter(mine.values()), None) or reply(0)
    held = [mine.get(row, filler) for row in rows.places]
    most = max(one.steps for one in held), max(one.prompts for one in held), _longest(task, held)
    told = hosts.exchange(f"steps of {task.name} from {start}", json.dumps(most))
    steps, prompts, length = (max(counts) for counts in zip(*map(json.loads, told), strict=True))
    task = dataclasses.replace(task, sizes=dataclasses.replace(task.sizes, length=length))
    counted = list(zip(rows.places, rows.scored, strict=True))
    hearing = [n for n, (row, counts) in enumerate(counted) if row in mine and (counts or filler.depends)]
    seen: dict[int, Any] = {}
    for step in range(steps):
        for k in range(prompts):
            asked = [one.ask(min(step, one.steps - 1), min(k, one.prompts - 1), task.prepare_val) for one in held]
            batch = jax.tree.map(lambda *leaves: np.stack(leaves), *asked)
            out = _call(runner, task, benchmark, runner.feed.put(batch, rows), seen.get(k))
            memory = out.pop("next_query", None)
            seen[k] = memory if filler.feeds_back else None
            own = {key: runner.feed.own(value) for key, value in out.items()}
            for n in hearing:
                if step < held[n].steps and k < held[n].prompts:
                    held[n].hear(k, {key: value[n] for key, value in own.items()})
    for n, (row, counts) in enumerate(counted):
        if row in mine and counts:
            yield start + row, held[n]


def _record(task: Task, index: int) -> Example:
    """A benchmark's score is of all its records: UserError where one cannot be read."""
    examples: Any = task.val
    try:
        return examples[index]
    except faults.UNREADABLE as error:
        raise UserError(f"benchmark {task.name} record {index}: {faults.reason(error)}") from error


def _longest(task: Task, held: list[Reply]) -> int:
    """Positions that the prompts of a batch take, in few different sizes, at least the config's."""
    sizes = task.sizes
    counts = TokenCounts(sizes.image_tokens, sizes.fine_grained_tokens, sizes.queries)
    needed = max(
        expanded_length(tokenize(one.asked(k), task.tokenizer, template=sizes.template), counts)
        for one in held
        for k in range(one.prompts)
    )
    return sizes.length if needed <= sizes.length else -(-needed // STEP) * STEP


def _call(runner: Runner, task: Task, benchmark: Benchmark, batch: Any, query: Any) -> dict[str, Any]:
    if benchmark.task != "chat":
        return dict(runner.predict(runner.params, batch) if query is None else runner.predict(runner.params, batch, query))
    if runner.write is None:
        raise UserError(f"benchmark {task.name}: this system writes no text")
    return {
        "ids": runner.write(
            runner.params, batch, max_new_tokens=NEW_TOKENS, eos_id=task.tokenizer.eos_id, vocab_size=task.tokenizer.vocab_size
        )
    }


def _reply(benchmark: Benchmark, task: Task, example: Example) -> Reply:
    scoring = SCORINGS[benchmark.scoring]
    other = {prompt.task for prompt in example.prompts} - {benchmark.task}
    if other:
        raise UserError(f"{example.name}: a {other.pop()} prompt in a benchmark of {benchmark.task}")
    height, width = example.frames.shape[1:3]

    def find(prompt: Prompt, outputs: dict[str, np.ndarray]) -> Found:
        if scoring.find is None:
            ids = outputs["ids"]
            written = task.tokenizer.decode(ids[np.cumsum(ids == task.tokenizer.eos_id) == 0].tolist()).strip()
            return Found(np.zeros((0, height, width), bool), text=written)
        first = {key: value[0, 0] for key, value in outputs.items()}  # the only frame, the only prompt
        return scoring.find(prompt, first, fit(height, width, task.sizes.image_size), benchmark.thresholds)

    return scoring.reply(example, find)
