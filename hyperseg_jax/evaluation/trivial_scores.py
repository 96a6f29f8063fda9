"""Scores of trivial predictions, which use no model: what a model must exceed by far."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.benchmarks import Benchmark
from hyperseg_jax.evaluation.scoring import Scorer
from hyperseg_jax.evaluation.start_shapes import centre
from hyperseg_jax.metrics.baselines import MeanShape, disc
from hyperseg_jax.structs import Example, Prediction, Prompt, Region

Size = tuple[int, int]
"""(height, width) of an image."""


@dataclasses.dataclass
class TargetStatistics:
    """What trivial predictions know of all targets. shape: the mean size and shape of objects around their centres. pixels: the
    pixels of each class."""

    shape: MeanShape = dataclasses.field(default_factory=MeanShape)
    pixels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, prompt: Prompt) -> None:
        """Adds the targets of a prompt."""
        masks = () if prompt.masks is None else prompt.masks[:, 0]
        for mask, label in zip(masks, prompt.labels, strict=True):
            if prompt.classes:
                self.pixels[prompt.classes[label]] += int(mask.sum())
            elif mask.any():
                row, column = centre(mask)
                self.shape.add(mask, row + 0.5, column + 0.5)


Baseline = Callable[[TargetStatistics, Prompt, Size], Prediction]


def _around_clicks(statistics: TargetStatistics, prompt: Prompt, size: Size, *, mean_shape: bool) -> Prediction:
    """Predicts a disc or the mean shape around each click, of which the newest one counts; and what is marked otherwise."""

    def around(row: float, column: float) -> np.ndarray:
        shape = statistics.shape
        return shape.at(row, column, size) if mean_shape else disc(row, column, shape.radius(size), size)

    def predict_region(region: Region) -> np.ndarray:
        other = dataclasses.replace(region, points=np.zeros((0, 3)))
        marked = other.mask is not None or len(other.boxes) or other.scribbles
        mask = draw_region(other, size) if marked else np.zeros(size, bool)
        points = region.points
        if not len(points) and mask.any():
            row, column = centre(mask)
            points = np.array([[column + 0.5, row + 0.5, 1]])
        for x, y, positive in points.tolist():
            mask[around(y, x)] = positive == 1
        return mask

    return Prediction(np.stack([predict_region(region) for region in prompt.regions]))


def _mark_itself(statistics: TargetStatistics, prompt: Prompt, size: Size) -> Prediction:
    """Predicts what is marked."""
    return Prediction(np.stack([draw_region(region, size) for region in prompt.regions]))


def _first_frame(statistics: TargetStatistics, prompt: Prompt, size: Size) -> Prediction:
    """Predicts the masks of the first frame for every frame, as probabilities."""
    return Prediction(_mark_itself(statistics, prompt, size).masks.astype(np.float32))


def _most_frequent(statistics: TargetStatistics, prompt: Prompt, size: Size) -> Prediction:
    """Predicts one segment for the whole image, of the listed class with the most pixels in all images."""
    label = int(np.argmax([statistics.pixels[name] for name in prompt.classes]))
    return Prediction(np.ones((1, *size), bool), (label,), (1.0,))


def _nothing(statistics: TargetStatistics, prompt: Prompt, size: Size) -> Prediction:
    """Predicts no segment: everything is background."""
    return Prediction(np.zeros((0, *size), bool))


_AROUND: dict[str, Baseline] = {
    "disc": functools.partial(_around_clicks, mean_shape=False),
    "mean_mask": functools.partial(_around_clicks, mean_shape=True),
}
BASELINES: dict[str, dict[str, Baseline]] = {
    "clicks": _AROUND,
    "regions": {**_AROUND, "mark": _mark_itself},
    "panoptic": {"nothing": _nothing, "most_frequent": _most_frequent},
    "semantic": {"most_frequent": _most_frequent},
    "zero_shot": {"most_frequent": _most_frequent},
    "davis": {"first_frame": _first_frame},
}
"""Trivial predictions by scoring and name."""


def trivial_scores(
    name: str,
    benchmark: Benchmark,
    examples: Sequence[Example],
    *,
    limit: int | None = None,
    rules: str = "official",
    interactive: bool = False,
) -> dict[str, dict[str, float]]:
    """Returns the scores of each baseline of a benchmark by name, with the protocol that a model has; {} if it has none.

    name: of the benchmark, for messages. limit: number of examples, None for all. interactive: of the system. The statistics
    are those of the scored targets themselves. Every host reads all examples. Raises UserError for an unreadable example.
    """
    baselines, count = BASELINES.get(benchmark.scoring, {}), min(len(examples), limit or len(examples))
    scorers = {baseline: Scorer({benchmark.task: benchmark.scoring}, rules) for baseline in baselines}
    statistics = TargetStatistics()
    for index in range(count) if baselines else ():
        with _naming_record(name, index):
            for prompt in examples[index].prompts:
                statistics.add(prompt)
    for index in range(count) if baselines else ():
        with _naming_record(name, index):
            example = examples[index]
            for baseline, scorer in scorers.items():
                predict = functools.partial(_predict, baselines[baseline], statistics, example.frames.shape[1:3])
                protocol = benchmark.make_protocol(example, predict, interactive=interactive)
                for _ in range(protocol.steps):
                    for k in range(protocol.prompts):
                        protocol.add_outputs(k, None)
                for prompt, predictions in protocol.answers():
                    scorer.add(example.name, prompt, predictions)
    return {baseline: scorer.compute() for baseline, scorer in scorers.items()}


def _predict(baseline: Baseline, statistics: TargetStatistics, size: Size, prompt: Prompt, outputs: Any) -> Prediction:
    return baseline(statistics, prompt, size)


@contextlib.contextmanager
def _naming_record(name: str, index: int) -> Iterator[None]:
    """Adds the name of the benchmark and the index of the record to errors."""
    try:
        yield
    except BaseException as error:
        raise UserError(f"benchmark {name} record {index}: {record_errors.error_message(error)}") from error
