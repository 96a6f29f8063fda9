"""Scores of a model on the validation records of its tasks, by the same answers that a user gets."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data.sources import Task
from hyperseg_jax.data.transforms import Geometry, fit
from hyperseg_jax.metrics import CumulativeIoU, InteractiveIoU, JAndF, PanopticQuality
from hyperseg_jax.results import answers
from hyperseg_jax.results.drawing import caption, overlay, save_image, sheet
from hyperseg_jax.structs import Example, Prompt

BATCH = 12  # examples a call: one program for each task
ABSENT_BELOW = 0.5  # expression probability under which an answer is "not there"


@dataclasses.dataclass
class Evaluation:
    """scores: {task: {metric: value}}. tiles: pictures of the first answers, for a sheet."""

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
) -> Evaluation:
    """Scores every task that has validation records. predict is the jitted function of the system.

    limit: examples a task. change: replaces a task's examples, for controls such as shuffled expressions.
    """
    made = Evaluation({}, [])
    for name, task in tasks.items():
        if task.val is None:
            continue
        count = min(len(task.val), limit or len(task.val))
        examples: Iterable[Example] = (task.val[i] for i in range(count))
        if change is not None:
            examples = change(name, list(examples))
        scorer = _Scorer()
        for done, (example, outputs) in enumerate(_outputs(predict, params, task, examples), 1):
            geometry = fit(*example.frames.shape[1:3], task.sizes.image_size)
            for k, prompt in enumerate(example.prompts[: task.sizes.prompts]):
                found = scorer.score(prompt, {key: value[:, k] for key, value in outputs.items()}, geometry)
                if len(made.tiles) < tiles and found is not None and k == 0:
                    made.tiles.append(tile(example, prompt, found))
            if progress is not None:
                progress(name, done, count)
        if scores := scorer.compute():
            made.scores[name] = scores
    return made


def _outputs(
    predict: Callable[..., Any], params: Any, task: Task, examples: Iterable[Example]
) -> Iterator[tuple[Example, dict[str, np.ndarray]]]:
    """(example, arrays [T, K, ...]) one by one, computed in batches of BATCH; the last batch is filled up."""
    for group in itertools.batched(examples, BATCH) if hasattr(itertools, "batched") else _batched(examples):
        rows = [task.prepare_val(example) for example in group]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rows, *[rows[-1]] * (BATCH - len(rows)))
        out = predict(params, batch)
        host = {key: np.asarray(value) for key, value in out.items() if key != "next_query"}
        for n, example in enumerate(group):
            yield example, {key: value[n] for key, value in host.items()}


def _batched(items: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while group := tuple(itertools.islice(iterator, BATCH)):
        yield group


class _Scorer:
    """The accumulators that a task's prompts need."""

    def __init__(self) -> None:
        self._iou, self._groups = CumulativeIoU(), {}
        self._quality, self._regions, self._clips = PanopticQuality(), InteractiveIoU(), JAndF()

    def score(self, prompt: Prompt, outputs: dict[str, np.ndarray], geometry: Geometry) -> list[np.ndarray] | None:
        """Adds one prompt; returns the masks that were found on the first frame, None where nothing is scored."""
        if prompt.task in ("referring", "reasoning", "video"):
            found = [self._expression(outputs, t, geometry, prompt) for t in range(len(outputs["mask_logits"]))]
            wanted = prompt.masks[0] if len(prompt.masks) else np.zeros((len(found), *geometry.original), bool)
            if prompt.task == "video":
                self._clips.update(np.stack(found), wanted[: len(found)])
            else:
                ignore = None if prompt.ignore is None else prompt.ignore[0]
                for accumulator in (self._iou, self._groups.setdefault(prompt.group, CumulativeIoU())):
                    accumulator.update(found[0], wanted[0], ignore=ignore)
            return [found[0]]
        if prompt.task == "region":
            segments = answers.regions(outputs["mask_logits"][0], outputs["region"][0], geometry, labels=prompt.kinds)
            for kind, segment, mask in zip(prompt.kinds, segments, prompt.masks, strict=True):
                self._regions.update(kind, segment.mask, mask[0])
            return [segment.mask for segment in segments]
        if prompt.task == "panoptic":
            ids, rows = answers.panoptic(outputs["mask_logits"][0], outputs["class"][0], geometry, classes=prompt.classes,
                                         things=prompt.things, object_threshold=0.5)  # fmt: skip
            self._panoptic(ids, rows, prompt)
            return [ids == row["id"] for row in rows]
        return None

    def _expression(self, outputs: dict[str, np.ndarray], t: int, geometry: Geometry, prompt: Prompt) -> np.ndarray:
        segments = answers.expression(outputs["mask_logits"][t], outputs["expression"][t], geometry, label=prompt.text,
                                      absent_below=ABSENT_BELOW)  # fmt: skip
        return segments[0].mask if segments else np.zeros(geometry.original, bool)

    def _panoptic(self, ids: np.ndarray, rows: list[dict], prompt: Prompt) -> None:
        wanted = np.zeros(ids.shape, np.int32)
        for k, mask in enumerate(prompt.masks, 1):
            wanted[mask[0]] = k
        self._quality.update(ids, {row["id"]: row["category"] for row in rows},
                             wanted, {k: prompt.classes[label] for k, label in enumerate(prompt.labels, 1)})  # fmt: skip

    def compute(self) -> dict[str, float]:
        scores: dict[str, float] = {}
        if self._groups:
            scores |= self._iou.compute()
            for group, accumulator in sorted(self._groups.items()):
                scores[f"giou_{group}"] = accumulator.compute()["giou"]
        for accumulator in (self._quality, self._regions, self._clips):
            if len(accumulator):
                scores |= accumulator.compute()
        return scores


def tile(example: Example, prompt: Prompt, found: list[np.ndarray], *, scale: int = 1) -> np.ndarray:
    """Left what was asked for, right what was found, the text below."""
    wanted = [mask[0] for mask in prompt.masks] if prompt.masks is not None else []
    pair = np.concatenate([overlay(example.frames[0], masks, scale=scale) for masks in (wanted, found)], axis=1)
    text = prompt.text or ", ".join(prompt.classes) or ", ".join(prompt.kinds)
    return caption(pair, text)
