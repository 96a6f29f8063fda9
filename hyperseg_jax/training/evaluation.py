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
from hyperseg_jax.data.transforms import Geometry, fit
from hyperseg_jax.errors import UserError
from hyperseg_jax.metrics.ciou_giou import ReferringScores
from hyperseg_jax.metrics.interactive import InteractiveScores
from hyperseg_jax.metrics.jf import ClipScores
from hyperseg_jax.metrics.panoptic_quality import PanopticQuality
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import ALONE, Feed
from hyperseg_jax.results import answers
from hyperseg_jax.results.drawing import caption, overlay, save_image, sheet
from hyperseg_jax.structs import Example, Prompt

BATCH = 12  # examples a call: one program for each task
ABSENT_BELOW = 0.5  # expression probability under which an answer is "not there"
# what scores a prompt, by its task; others have no metric
SCORES: dict[str, type] = {"referring": ReferringScores, "reasoning": ReferringScores, "video": ClipScores,
                           "region": InteractiveScores, "panoptic": PanopticQuality}  # fmt: skip


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
        if task.val is None or task.val[0].prompts[0].task not in SCORES:
            continue
        count = min(len(task.val), limit or len(task.val))
        examples: Sequence[Example] = task.val
        if change is not None:
            examples = change(name, [task.val[i] for i in range(count)])
        scorer = _Scorer()
        for done, example, outputs in _outputs(predict, params, task, examples, count, feed):
            height, width = example.frames.shape[1:3]
            geometry = fit(height, width, task.sizes.image_size)
            for k, prompt in enumerate(example.prompts[: task.sizes.prompts]):
                found = scorer.score(prompt, {key: value[:, k] for key, value in outputs.items()}, geometry)
                if len(made.tiles) < tiles and found is not None and k == 0:
                    made.tiles.append(tile(example, prompt, found))
            if progress is not None:
                progress(name, done, count)
        if scores := scorer.of_all_hosts(name).compute():
            made.scores[name] = scores
    return made


def _outputs(
    predict: Callable[..., Any], params: Any, task: Task, examples: Sequence[Example], count: int, feed: Feed
) -> Iterator[tuple[int, Example, dict[str, np.ndarray]]]:
    """(examples done on all hosts, example, arrays [T, K, ...]) of those that this host scores, one by one.

    They are computed in global batches of about BATCH; the last is filled up, so that all hosts call the device alike.
    """
    size = feed.size(BATCH)
    rows = feed.rows(size)
    for start in range(0, count, size):
        mine = [start + row for row in rows.places]
        kept = {i: examples[i] for i in mine if i < count}
        filler = next(iter(kept.values()), None) or examples[0]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *[task.prepare_val(kept.get(i, filler)) for i in mine])
        out = predict(params, feed.put(batch, rows))
        own = {key: feed.own(value) for key, value in out.items() if key != "next_query"}
        for n, (i, scored) in enumerate(zip(mine, rows.scored, strict=True)):
            if i in kept and scored:
                yield min(start + size, count), kept[i], {key: value[n] for key, value in own.items()}


class _Scorer:
    """The accumulator that a task's prompts need."""

    def __init__(self) -> None:
        self._used: dict[type, Any] = {}

    def score(self, prompt: Prompt, outputs: dict[str, np.ndarray], geometry: Geometry) -> list[np.ndarray] | None:
        """Adds one prompt; returns the masks that were found on the first frame, None where nothing is scored."""
        kind = SCORES.get(prompt.task)
        if kind is None:
            return None
        accumulator = self._used.setdefault(kind, kind())
        return getattr(self, f"_{prompt.task}")(accumulator, prompt, outputs, geometry)

    def _referring(self, scores: ReferringScores, prompt: Prompt, outputs: dict, geometry: Geometry) -> list[np.ndarray]:
        found, wanted = self._expression(prompt, outputs, geometry)
        scores.update(found[0], wanted[0], None if prompt.ignore is None else prompt.ignore[0], prompt.group)
        return [found[0]]

    _reasoning = _referring

    def _video(self, scores: ClipScores, prompt: Prompt, outputs: dict, geometry: Geometry) -> list[np.ndarray]:
        found, wanted = self._expression(prompt, outputs, geometry)
        scores.update(found, wanted, None if prompt.ignore is None else prompt.ignore[: len(found)], prompt.group)
        return [found[0]]

    def _region(self, scores: InteractiveScores, prompt: Prompt, outputs: dict, geometry: Geometry) -> list[np.ndarray]:
        segments = answers.regions(outputs["mask_logits"][0], outputs["region"][0], geometry, labels=prompt.kinds)
        found = [segment.mask for segment in segments]
        order = np.argsort(prompt.labels)
        ignore = None if prompt.ignore is None else prompt.ignore[0]
        scores.update(np.stack(found), _wanted(prompt)[order, 0], prompt.kinds, ignore)
        return found

    def _panoptic(self, scores: PanopticQuality, prompt: Prompt, outputs: dict, geometry: Geometry) -> list[np.ndarray]:
        ids, rows = answers.panoptic(outputs["mask_logits"][0], outputs["class"][0], geometry, classes=prompt.classes,
                                     things=prompt.things, object_threshold=0.5)  # fmt: skip
        found = [ids == row["id"] for row in rows]
        stacked = np.stack(found) if found else np.zeros((0, *geometry.original), bool)
        scores.update(stacked, [row["category"] for row in rows], _wanted(prompt)[:, 0], prompt.labels, prompt.classes,
                      prompt.things, None if prompt.ignore is None else prompt.ignore[0])  # fmt: skip
        return found

    @staticmethod
    def _expression(prompt: Prompt, outputs: dict, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Found and wanted, bool [T, H, W]."""
        empty = np.zeros(geometry.original, bool)
        found = []
        for logits, scores in zip(outputs["mask_logits"], outputs["expression"], strict=True):
            segments = answers.expression(logits, scores, geometry, label=prompt.text, absent_below=ABSENT_BELOW)
            found.append(segments[0].mask if segments else empty)
        masks = _wanted(prompt)
        wanted = masks[0][: len(found)] if len(masks) else np.stack([empty] * len(found))
        return np.stack(found), wanted

    def of_all_hosts(self, task: str) -> _Scorer:
        """What all hosts have scored, added up in the order of their numbers."""
        total = _Scorer()
        kinds: dict[str, Any] = {kind.__name__: kind for kind in SCORES.values()}
        for told in hosts.exchange(f"the scores of {task}", json.dumps({k.__name__: a.state() for k, a in self._used.items()})):
            for name, state in json.loads(told).items():
                total._used.setdefault(kinds[name], kinds[name]()).merge(kinds[name].from_state(state))
        return total

    def compute(self) -> dict[str, float]:
        return {name: value for accumulator in self._used.values() for name, value in accumulator.compute().items()}


def _wanted(prompt: Prompt) -> np.ndarray:
    if prompt.masks is None:
        raise UserError(f"a {prompt.task} prompt without masks cannot be scored; its reader must give them")
    return prompt.masks


def tile(example: Example, prompt: Prompt, found: list[np.ndarray]) -> np.ndarray:
    """Left what was asked for, right what was found, the text below. uint8 [H, W, 3]."""
    wanted = [mask[0] for mask in prompt.masks] if prompt.masks is not None else []
    frame, tint = example.frames[0], prompt.task == "panoptic"
    pair = np.concatenate([overlay(frame, masks, tint=tint) for masks in (wanted, found)], axis=1)
    text = prompt.text or ", ".join(prompt.classes) or ", ".join(prompt.kinds)
    return caption(pair, text)
