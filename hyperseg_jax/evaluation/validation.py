"""Scores of a model on the validation records of its tasks, by the same answers that a user gets, on any number of hosts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import faults
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.found import OURS
from hyperseg_jax.evaluation.scoring import BY_TASK, Scorer
from hyperseg_jax.ops.transforms import fit
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import ALONE, Feed
from hyperseg_jax.results.drawing import caption, overlay, save_image, sheet
from hyperseg_jax.structs import Example, Prompt

BATCH = 12  # examples a call: one program for each task


@dataclasses.dataclass
class Evaluation:
    """scores: {task: {metric: value}}, the same on all hosts. tiles: pictures of some of this host's answers, for a
    sheet."""

    scores: dict[str, dict[str, float]]
    tiles: list[np.ndarray]

    def save_sheet(self, path: pathlib.Path, columns: int = 6) -> None:
        """Writes the tiles as one PNG."""
        if self.tiles:
            save_image(path, sheet(self.tiles, columns))


def evaluate(
    predict: Callable[..., Any],
    params: Any,
    tasks: Mapping[str, Task],
    *,
    limit: int | None = None,
    tiles: int = 12,
    change: Callable[[str, list[Example]], list[Example]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    feed: Feed = ALONE,
) -> Evaluation:
    """Scores every task that has validation records and a metric. predict is the jitted function of the system.

    A record that cannot be read is in no score; where there are some, "unread" counts them among the scores, and `say` gets a
    line. UserError where a task has no other.

    limit: examples a task. change: replaces a task's examples, for controls such as shuffled expressions. feed: how batches lie
    on the mesh of many hosts, and what predict returns as well: each host scores its own rows, and the sums are added up.
    """
    made = Evaluation({}, [])
    for name, task in tasks.items():
        if task.val is None:
            continue
        sample, spare = _readable(name, task)
        if sample.prompts[0].task not in BY_TASK:
            continue
        count = min(len(task.val), limit or len(task.val))
        examples: Sequence[Example] = task.val
        if change is not None:
            examples = change(name, [task.val[i] for i in range(count)])
        scorer, unread = Scorer(BY_TASK), list[str]()
        share = min(count, tiles // len(tasks))  # a sheet shows something of every task, and not only its beginning
        for answered in _answered(predict, params, task, examples, count, feed, spare, unread):
            example, outputs = answered.example, answered.outputs
            height, width = example.frames.shape[1:3]
            geometry = fit(height, width, task.sizes.image_size)
            for k, prompt in enumerate(example.prompts):
                scoring = scorer.scoring(prompt)
                if scoring is None or scoring.find is None:
                    continue
                found = [
                    scoring.find(prompt, {key: value[t, k] for key, value in outputs.items()}, geometry, OURS)
                    for t in range(len(outputs["mask_logits"]))
                ]
                scorer.add(f"{example.name} {answered.first + k}", prompt, found)
                if answered.index * share % count < share and answered.first + k == 0:
                    made.tiles.append(tile(example, prompt, list(found[0].masks)))
            if progress is not None:
                progress(name, answered.done, count)
        scores = scorer.of_all_hosts(name).compute()
        told = hosts.exchange_long(f"what {name} lacks", json.dumps(unread))
        if missed := [line for lines in told for line in json.loads(lines)]:
            scores["unread"] = len(missed)
            say(
                f"{name}: {len(missed)} of {count} validation records could not be read and are in no score; "
                f"the first: {missed[0]}"
            )
        if scores:
            made.scores[name] = scores
    return made


def _readable(name: str, task: Task) -> tuple[Example, dict[str, Any]]:
    """The first example that can be read, and its arrays. UserError where there is none."""
    examples, reason = task.val or (), "it is empty"
    for k in range(len(examples)):
        try:
            example = examples[k]
            return example, task.prepare_val(_some(example, 0, task.sizes.prompts))
        except faults.UNREADABLE as error:
            reason = faults.reason(error) if k == 0 else reason
    raise UserError(f"data.tasks.{name}.val: none of its {len(examples)} records can be read; the first: {reason}")


@dataclasses.dataclass(frozen=True)
class _Answered:
    """What a model made of an example, or of some of its prompts. index: of the example; first: the number of the first of
    these prompts. outputs: arrays [T, K, ...]. done: examples that all hosts are through with."""

    index: int
    first: int
    example: Example
    outputs: dict[str, np.ndarray]
    done: int


def _answered(
    predict: Callable[..., Any],
    params: Any,
    task: Task,
    examples: Sequence[Example],
    count: int,
    feed: Feed,
    spare: dict[str, Any],
    unread: list[str],
) -> Iterator[_Answered]:
    """The examples that this host scores, one by one; one with more prompts than a batch has room for comes several times, each
    with its next few prompts. `unread` gets those that cannot be read, with what is wrong with them.

    They are computed in global batches of about BATCH; `spare` takes the place of what is not there or cannot be read, so that
    all hosts call the device alike.
    """
    size, room = feed.size(BATCH), task.sizes.prompts
    rows = feed.rows(size)
    for start in range(0, count, size):
        places = [start + row if start + row < count else None for row in rows.places]
        held: list[Example | None] = []
        for index, scored in zip(places, rows.scored, strict=True):
            try:
                held.append(None if index is None else examples[index])
            except faults.UNREADABLE as error:
                held.append(None)
                unread += [f"record {index}: {faults.reason(error)}"] if scored else []
        most = max((len(example.prompts) for example in held if example is not None), default=1)
        told = hosts.exchange(f"prompts of {task.name} from {start}", str(most))
        for first in range(0, max(map(int, told)), room):
            parts = [None if example is None else _some(example, first, room) for example in held]
            arrays = []
            for n, part in enumerate(parts):
                try:
                    arrays.append(spare if part is None or not part.prompts else task.prepare_val(part))
                except faults.UNREADABLE as error:
                    arrays.append(spare)
                    parts[n] = held[n] = None
                    unread += [f"record {places[n]}: {faults.reason(error)}"] if rows.scored[n] else []
            out = predict(params, feed.put(jax.tree.map(lambda *leaves: np.stack(leaves), *arrays), rows))
            own = {key: feed.own(value) for key, value in out.items() if key != "next_query"}
            for n, (index, part, scored) in enumerate(zip(places, parts, rows.scored, strict=True)):
                if scored and index is not None and part is not None and part.prompts:
                    outputs = {key: value[n] for key, value in own.items()}
                    yield _Answered(index, first, part, outputs, min(start + size, count))


def _some(example: Example, first: int, count: int) -> Example:
    return dataclasses.replace(example, prompts=example.prompts[first : first + count])


def tile(example: Example, prompt: Prompt, found: list[np.ndarray]) -> np.ndarray:
    """Left what was asked for, right what was found, the text below. uint8 [H, W, 3]."""
    wanted = [mask[0] for mask in prompt.masks] if prompt.masks is not None else []
    frame, tint = example.frames[0], prompt.task == "panoptic"
    pair = np.concatenate([overlay(frame, masks, tint=tint) for masks in (wanted, found)], axis=1)
    text = prompt.text or ", ".join(prompt.classes) or ", ".join(prompt.kinds)
    return caption(pair, text)
