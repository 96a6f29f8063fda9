"""Scores of a model on the validation records of its tasks, by the predictions that a user gets, on any number of hosts."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, prediction_fn, predictions
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol
from hyperseg_jax.evaluation.scoring import BY_TASK, SCORINGS, Scorer
from hyperseg_jax.parallel import hosts
from hyperseg_jax.results.drawing import compare, save_image, sheet
from hyperseg_jax.structs import Example, Prediction, Prompt

BATCH = 12  # examples a call: one program for each task


@dataclasses.dataclass
class Evaluation:
    """scores: {task: {metric: value}}, the same on all hosts. tiles: images of some of this host's predictions, for a
    sheet."""

    scores: dict[str, dict[str, float]]
    tiles: list[np.ndarray]

    def save_sheet(self, path: pathlib.Path, columns: int = 6) -> None:
        """Writes the tiles as one PNG."""
        if self.tiles:
            save_image(path, sheet(self.tiles, columns))


def evaluate(
    engine: Engine,
    tasks: Mapping[str, Task],
    *,
    limit: int | None = None,
    tiles: int = 12,
    change: Callable[[str, list[Example]], list[Example]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
    workers: int = 0,
) -> Evaluation:
    """Scores every task that has validation records and a metric.

    A record that cannot be read is in no score; where there are some, "unread" counts them among the scores, and `say` gets a
    line. UserError where a task has no other.

    limit: examples a task. change: replaces a task's examples, for controls such as shuffled expressions. workers: processes
    that decode images, 0 for threads. On the mesh of many hosts (engine.feed) each host scores its own rows, and the sums are
    added up.
    """
    made = Evaluation({}, [])
    for name, task in tasks.items():
        if task.val is None or (kind := _first_prompt(name, task).task) not in BY_TASK:
            continue
        options = AnswerOptions(SCORINGS[BY_TASK[kind]].kind, engine.answers.usual)
        count = min(len(task.val), limit or len(task.val))
        alike = {other: scoring for other, scoring in BY_TASK.items() if SCORINGS[scoring].kind == options.kind}
        scorer, unread = Scorer(alike), list[str]()
        note = functools.partial(_note, unread)
        examples: Sequence[Example] = task.val
        if change is not None:
            examples = change(name, list(_readable(task.val, count, note)))
        asked = min(count, len(examples))
        share = min(count, tiles // len(tasks))  # a sheet shows something of every task, and not only its beginning
        for done, answered in predictions(
            engine,
            task,
            examples,
            functools.partial(_protocol, engine, options, scorer, task),
            count=asked,
            batch_size=BATCH,
            options=options,
            unread=note,
            workers=workers,
        ):
            for index, protocol in answered:
                for k, (prompt, predicted) in enumerate(protocol.answers()):
                    if scorer.scoring(prompt) is None:
                        continue
                    scorer.add(f"{protocol.example.name} {k}", prompt, predicted)
                    if index * share % count < share and k == 0:
                        made.tiles.append(compare(protocol.example.frames[0], prompt, list(predicted[0].masks)))
            if progress is not None:
                progress(name, done, asked)
        scores = scorer.sum_over_hosts(name).compute()
        told = hosts.exchange_long(f"what {name} lacks", json.dumps(unread))
        if missed := [line for lines in told for line in json.loads(lines)]:
            scores["unread"] = len(missed)
            log(
                f"{name}: {len(missed)} of {count} validation records could not be read and are in no score; "
                f"the first: {missed[0]}"
            )
        if scores:
            made.scores[name] = scores
    return made


def _protocol(engine: Engine, options: AnswerOptions, scorer: Scorer, task: Task, example: Example) -> EvalProtocol:
    """All prompts and frames of an example at once. Prompts that no metric takes get no prediction."""
    geometry = task.processor.geometry(*example.frames.shape[1:3])

    found = prediction_fn(engine, options, geometry)

    def find(prompt: Prompt, outputs: Any) -> Prediction:
        return Prediction(np.zeros((0, *geometry.original), bool)) if scorer.scoring(prompt) is None else found(prompt, outputs)

    return AllFrames(example, find, room=task.processor.prompts)


def _readable(examples: Sequence[Example], count: int, note: Callable[[int, str], None]) -> Iterator[Example]:
    """The first `count` examples without those that cannot be read. On each host all are read, and the first one notes."""
    for k in range(count):
        try:
            yield examples[k]
        except GeneratorExit:
            raise
        except BaseException as error:
            why = record_errors.reason(error)
            if hosts.is_primary():
                note(k, why)


def _note(unread: list[str], index: int, reason: str) -> None:
    unread.append(f"record {index}: {reason}")


def _first_prompt(name: str, task: Task) -> Prompt:
    """Of the first record that can be read and asked about. UserError where there is none."""
    examples, reason = task.val or (), "it is empty"
    for k in range(len(examples)):
        try:
            example = examples[k]
            task.processor.bucket(example)
            return example.prompts[0]
        except BaseException as error:
            told = record_errors.reason(error)
            reason = told if k == 0 else reason
    raise UserError(f"data.tasks.{name}.val: none of its {len(examples)} records can be read; the first: {reason}")
