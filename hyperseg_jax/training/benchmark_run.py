"""One benchmark scored from its first example to its last, on any number of hosts, going on where a killed run stopped."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data import faults
from hyperseg_jax.data.sources import Task
from hyperseg_jax.data.transforms import fit
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import ALONE, Feed
from hyperseg_jax.results.whole import write_text
from hyperseg_jax.structs import Example
from hyperseg_jax.training.benchmarks import Benchmark
from hyperseg_jax.training.cases import Cases
from hyperseg_jax.training.scoring import Found, Scorer
from hyperseg_jax.training.submissions import Row, row_of

NEW_TOKENS = 64
"""Of a written answer (HyperSeg's evaluation)."""


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
    new = lambda: Partial(Scorer({benchmark.task: benchmark.scoring}, rules), Cases(), [])
    total, fresh = new(), new()
    if told := hosts.exchange_long(f"{task.name} so far", _read(kept, asked) if hosts.leads() else "")[0]:
        state = json.loads(told)
        total.merge(state)
        total.done = total.resumed = state["done"]
    progress(total.done, count)
    size = runner.feed.size(batch_size)
    for number, start in enumerate(range(total.done, count, size), 1):
        for index, example, found in _answers(runner, benchmark, task, start, min(start + size, count), size):
            _count(fresh, benchmark, index, example, found)
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
        raise UserError(f"{kept}: is of an evaluation with {key} = {state['asked'].get(key)!r}, this one has {asked[key]!r}; "
                        "give another --out, or remove the file to start anew")  # fmt: skip
    return json.dumps(state)


def _count(fresh: Partial, benchmark: Benchmark, index: int, example: Example, found: Sequence[Found]) -> None:
    (prompt,) = example.prompts
    value = fresh.scorer.add(example.name, prompt, found)
    fresh.cases.add(value, index, 0, found[0])
    if benchmark.submission:
        fresh.rows.append((index, 0, row_of(example, prompt, found)))


def _answers(
    runner: Runner, benchmark: Benchmark, task: Task, start: int, stop: int, size: int
) -> Iterator[tuple[int, Example, list[Found]]]:
    """(number, example, its answers frame by frame) of those of start..stop that this host scores.

    A batch has `size` rows whatever is left, so that all hosts call the device alike. A clip goes through one frame at a time,
    what the model saw of a frame feeds the next, and clips of a batch wait for the longest: memory is that of one frame.
    """
    rows = runner.feed.rows(size)
    mine = {row: _record(task, start + row) for row in rows.places if start + row < stop}
    for example in mine.values():
        if len(example.prompts) != 1:
            raise UserError(f"{example.name}: {len(example.prompts)} prompts; a benchmark's reader gives them one by one")
    filler = next(iter(mine.values()), None) or _record(task, 0)
    held = [mine.get(row, filler) for row in rows.places]
    longest = max(int(told) for told in hosts.exchange(f"frames of {task.name} from {start}",
                                                       str(max(len(example.frames) for example in held))))  # fmt: skip
    counted = zip(rows.places, rows.scored, strict=True)
    scored = [(n, start + row) for n, (row, own) in enumerate(counted) if row in mine and own]
    found: dict[int, list[Found]] = {n: [] for n, _ in scored}
    query = None
    for t in range(longest):
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *[task.prepare_val(_at(example, t)) for example in held])
        out = _call(runner, task, benchmark, runner.feed.put(batch, rows), query, t)
        query = out.pop("next_query", None)
        own = {key: runner.feed.own(value) for key, value in out.items()}
        for n, _ in scored:
            if t < len(held[n].frames):
                found[n].append(_found(benchmark, task, held[n], {key: value[n] for key, value in own.items()}))
    for n, index in scored:
        yield index, held[n], found[n]


def _record(task: Task, index: int) -> Example:
    """A benchmark's score is of all its records: UserError where one cannot be read."""
    examples: Any = task.val
    try:
        return examples[index]
    except faults.UNREADABLE as error:
        raise UserError(f"benchmark {task.name} record {index}: {faults.reason(error)}") from error


def _at(example: Example, t: int) -> Example:
    """Frame t alone, the last one where the clip has ended; without targets, which are not the device's business."""
    prompts = tuple(dataclasses.replace(prompt, masks=None, labels=()) for prompt in example.prompts)
    return dataclasses.replace(example, frames=example.frames[min(t, len(example.frames) - 1)][None], prompts=prompts)


def _call(runner: Runner, task: Task, benchmark: Benchmark, batch: Any, query: Any, t: int) -> dict[str, Any]:
    if benchmark.task != "chat":
        return dict(runner.predict(runner.params, batch) if t == 0 else runner.predict(runner.params, batch, query))
    if runner.write is None:
        raise UserError(f"benchmark {task.name}: this system writes no text")
    return {"ids": runner.write(runner.params, batch, max_new_tokens=NEW_TOKENS, eos_id=task.tokenizer.eos_id,
                                vocab_size=task.tokenizer.vocab_size)}  # fmt: skip


def _found(benchmark: Benchmark, task: Task, example: Example, outputs: dict[str, np.ndarray]) -> Found:
    height, width = example.frames.shape[1:3]
    if benchmark.task == "chat":
        ids = outputs["ids"]
        written = task.tokenizer.decode(ids[np.cumsum(ids == task.tokenizer.eos_id) == 0].tolist()).strip()
        return Found(np.zeros((0, height, width), bool), text=written)
    (prompt,) = example.prompts
    find = Scorer({benchmark.task: benchmark.scoring}).scoring(prompt)
    if find is None or find.find is None:
        raise UserError(f"{example.name}: a {prompt.task} prompt in a benchmark of {benchmark.task}")
    first = {key: value[0, 0] for key, value in outputs.items()}  # the only frame, the only prompt
    return find.find(prompt, first, fit(height, width, task.sizes.image_size), benchmark.thresholds)
