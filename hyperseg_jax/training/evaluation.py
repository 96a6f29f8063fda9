"""Scores of a model on the validation records of its tasks, by the same answers that a user gets, on any number of hosts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data.sources import Task
from hyperseg_jax.data.transforms import fit
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import ALONE, Feed
from hyperseg_jax.results.drawing import caption, overlay, save_image, sheet
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.training.found import OURS
from hyperseg_jax.training.scoring import BY_TASK, Scorer

BATCH = 12  # examples a call: one program for each task


@dataclasses.dataclass
class Evaluation:
    """scores: {task: {metric: value}}, the same on all hosts. tiles: pictures of this host's first answers, for a sheet."""

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
    feed: Feed = ALONE,
) -> Evaluation:
    """Scores every task that has validation records and a metric. predict is the jitted function of the system.

    limit: examples a task. change: replaces a task's examples, for controls such as shuffled expressions. feed: how batches lie
    on the mesh of many hosts, and what predict returns as well: each host scores its own rows, and the sums are added up.
    """
    made = Evaluation({}, [])
    for name, task in tasks.items():
        if task.val is None or task.val[0].prompts[0].task not in BY_TASK:
            continue
        count = min(len(task.val), limit or len(task.val))
        examples: Sequence[Example] = task.val
        if change is not None:
            examples = change(name, [task.val[i] for i in range(count)])
        scorer = Scorer(BY_TASK)
        for done, example, first, outputs in _outputs(predict, params, task, examples, count, feed):
            height, width = example.frames.shape[1:3]
            geometry = fit(height, width, task.sizes.image_size)
            for k, prompt in enumerate(example.prompts):
                scoring = scorer.scoring(prompt)
                if scoring is None or scoring.find is None:
                    continue
                found = [scoring.find(prompt, {key: value[t, k] for key, value in outputs.items()}, geometry, OURS)
                         for t in range(len(outputs["mask_logits"]))]  # fmt: skip
                scorer.add(f"{example.name} {first + k}", prompt, found)
                if len(made.tiles) < tiles and first + k == 0:
                    made.tiles.append(tile(example, prompt, list(found[0].masks)))
            if progress is not None:
                progress(name, done, count)
        if scores := scorer.of_all_hosts(name).compute():
            made.scores[name] = scores
    return made


def _outputs(
    predict: Callable[..., Any], params: Any, task: Task, examples: Sequence[Example], count: int, feed: Feed
) -> Iterator[tuple[int, Example, int, dict[str, np.ndarray]]]:
    """(examples done on all hosts, example, number of its first prompt, arrays [T, K, ...]) of those that this host scores, one
    by one; one with more prompts than a batch has room for comes several times, each with its next few prompts.

    They are computed in global batches of about BATCH; the last is filled up, so that all hosts call the device alike.
    """
    size, room = feed.size(BATCH), task.sizes.prompts
    rows = feed.rows(size)
    for start in range(0, count, size):
        mine = [start + row for row in rows.places]
        kept = {i: examples[i] for i in mine if i < count}
        filler = next(iter(kept.values()), None) or examples[0]
        most = max(len(example.prompts) for example in (*kept.values(), filler))
        told = hosts.exchange(f"prompts of {task.name} from {start}", str(most))
        for first in range(0, max(map(int, told)), room):
            parts = {i: _some(example, first, room) for i, example in kept.items() if len(example.prompts) > first}
            spare = _some(filler, 0, room)
            batch = jax.tree.map(lambda *leaves: np.stack(leaves),
                                 *[task.prepare_val(parts.get(i, spare)) for i in mine])  # fmt: skip
            out = predict(params, feed.put(batch, rows))
            own = {key: feed.own(value) for key, value in out.items() if key != "next_query"}
            for n, (i, scored) in enumerate(zip(mine, rows.scored, strict=True)):
                if i in parts and scored:
                    yield min(start + size, count), parts[i], first, {key: value[n] for key, value in own.items()}


def _some(example: Example, first: int, count: int) -> Example:
    return dataclasses.replace(example, prompts=example.prompts[first : first + count])


def tile(example: Example, prompt: Prompt, found: list[np.ndarray]) -> np.ndarray:
    """Left what was asked for, right what was found, the text below. uint8 [H, W, 3]."""
    wanted = [mask[0] for mask in prompt.masks] if prompt.masks is not None else []
    frame, tint = example.frames[0], prompt.task == "panoptic"
    pair = np.concatenate([overlay(frame, masks, tint=tint) for masks in (wanted, found)], axis=1)
    text = prompt.text or ", ".join(prompt.classes) or ", ".join(prompt.kinds)
    return caption(pair, text)
