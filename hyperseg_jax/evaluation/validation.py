"""Validation: scores of a model on the validation records of its tasks, on any number of hosts."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, make_prediction_fn, run_protocols
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol
from hyperseg_jax.evaluation.scoring import SCORINGS, TRACKED, Scorer, kind_of_example, scoring_by_task
from hyperseg_jax.parallel import hosts
from hyperseg_jax.results.drawing import arrange_tiles, describe_answer, draw_comparison, save_image
from hyperseg_jax.structs import Example, Prediction, Prompt

BATCH = 12  # examples per batch; constant, so that each task compiles one program


@dataclasses.dataclass
class Evaluation:
    """Results of a validation. scores: {task: {metric: value}}, the same on all hosts. tiles: images of some predictions of
    this host. class_iou: {task: {class: IoU}} of the tasks that are scored by mIoU."""

    scores: dict[str, dict[str, float]]
    tiles: list[np.ndarray]
    class_iou: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def save_sheet(self, path: pathlib.Path, columns: int = 6) -> None:
        """Writes the tiles as one PNG, if there are any."""
        if self.tiles:
            save_image(path, arrange_tiles(self.tiles, columns))


def evaluate(
    engine: Engine,
    tasks: Mapping[str, Task],
    *,
    limit: int | None = None,
    tiles: int = 12,
    change: Callable[[Sequence[Example], int, Callable[[int, str], None]], Sequence[Example]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
    workers: int = 0,
) -> Evaluation:
    """Scores every task that has validation records and a metric.

    Records that cannot be read, queried or scored are left out; the score "unread" counts them, and `log` receives a line.
    Raises UserError if no record of a task can be read.

    limit: maximum number of examples per task. tiles: number of images for the sheet. change: replaces the examples of a task,
    f(examples, count, on_unreadable), for controls such as shuffled expressions. workers: number of processes that decode
    images, 0 for threads. In multi-host runs (engine.feed), each host scores its own rows, and the sums are added up.
    """
    evaluation, by_task = Evaluation({}, []), scoring_by_task(engine.answers)
    for name, task in tasks.items():
        if task.val is None or (kind := kind_of_example(first_readable_example(name, task), by_task)) not in by_task:
            continue
        options = AnswerOptions(SCORINGS[by_task[kind]].kind, engine.answers.default)
        count = min(len(task.val), limit or len(task.val))
        scored_tasks = {other: scoring for other, scoring in by_task.items() if SCORINGS[scoring].kind == options.kind}
        if kind == TRACKED:
            scored_tasks = {"panoptic": by_task[TRACKED]}
        scorer, unread = Scorer(scored_tasks), list[str]()
        add_unread = functools.partial(_add_unread, unread)
        examples: Sequence[Example] = task.val
        if change is not None:
            examples = change(task.val, count, add_unread)
        total = min(count, len(examples))
        share = min(count, tiles // len(tasks))  # the sheet has tiles of every task, spread over its examples
        for done, finished in run_protocols(
            engine,
            task,
            examples,
            functools.partial(_make_protocol, engine, options, scorer, task),
            count=total,
            batch_size=BATCH,
            options=options,
            on_unreadable=add_unread,
            workers=workers,
        ):
            for index, protocol in finished:
                scores_of_example = Scorer(scored_tasks)
                try:
                    tile = _score_example(scores_of_example, protocol, draw=index * share % count < share)
                    scorer.merge(scores_of_example.state())
                except BaseException as error:
                    add_unread(index, record_errors.error_message(error))
                    continue
                evaluation.tiles += tile
            if progress is not None:
                progress(name, done, total)
        scorer = scorer.sum_over_hosts(name)
        scores = scorer.compute()
        if by_class := scorer.iou_by_class():
            evaluation.class_iou[name] = by_class
        unread_by_host = hosts.exchange_long(f"unreadable records of {name}", json.dumps(unread))
        if unread_lines := [line for lines in unread_by_host for line in json.loads(lines)]:
            scores["unread"] = len(unread_lines)
            log(
                f"{name}: {len(unread_lines)} of {count} validation records could not be read and are not scored; "
                f"the first: {unread_lines[0]}"
            )
        if scores:
            evaluation.scores[name] = scores
    return evaluation


def _make_protocol(engine: Engine, options: AnswerOptions, scorer: Scorer, task: Task, example: Example) -> EvalProtocol:
    """Returns the protocol of an example: that of its scoring, or else all frames at once, unless each has reference frames.
    Prompts that have no metric get an empty prediction."""
    geometry = task.processor.geometry(*example.frames.shape[1:3])

    predict = make_prediction_fn(engine, options, geometry)

    def predict_if_scored(prompt: Prompt, outputs: Any) -> Prediction:
        return (
            Prediction(np.zeros((0, *geometry.original), bool)) if scorer.scoring(prompt) is None else predict(prompt, outputs)
        )

    scoring = scorer.scoring(example.prompts[0])
    if scoring is not None and scoring.protocol is not EvalProtocol:
        return scoring.protocol(example, predict_if_scored, engine.reference_frames)
    if engine.reference_frames is not None and len(example.frames) > 1:
        return EvalProtocol(example, predict_if_scored, engine.reference_frames)
    return AllFrames(example, predict_if_scored, group_size=task.processor.prompts)


def _score_example(scorer: Scorer, protocol: EvalProtocol, *, draw: bool) -> list[np.ndarray]:
    """Scores the prompts of an example that have a metric. Returns an image of the first prompt if `draw`."""
    tiles = []
    for k, (prompt, predictions_by_frame) in enumerate(protocol.answers()):
        if scorer.scoring(prompt) is None:
            continue
        scorer.add(f"{protocol.example.name} {k}", prompt, predictions_by_frame)
        if draw and k == 0:
            last = predictions_by_frame[-1]
            tiles.append(
                draw_comparison(
                    protocol.example.frames[-1],
                    prompt,
                    list(last.masks),
                    describe_answer(prompt, last.texts, last.written),
                    labels=last.labels,
                    at=-1,
                )
            )
    return tiles


def _add_unread(unread: list[str], index: int, reason: str) -> None:
    unread.append(f"record {index}: {reason}")


def first_readable_example(name: str, task: Task) -> Example:
    """Returns the first example that can be read and processed. Raises UserError if there is none."""
    examples, reason = task.val or (), "it is empty"
    for k in range(len(examples)):
        try:
            example = examples[k]
            task.processor.bucket(example)
            return example
        except BaseException as error:
            failure = record_errors.error_message(error)  # raises again what is not an error of a record
            reason = failure if k == 0 else reason
    raise UserError(f"data.tasks.{name}.val: none of its {len(examples)} records can be read; the first: {reason}")
