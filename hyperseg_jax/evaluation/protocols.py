"""Evaluation protocols: which queries an example makes, step by step, and how its predictions are assembled."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.results.objects import merge_soft
from hyperseg_jax.structs import Example, Prediction, Prompt, Region

PredictionFn = Callable[[Prompt, Any], Prediction]
"""f(prompt, selected outputs of one frame) -> Prediction."""
T = TypeVar("T")
REGIONS = 16
"""Regions of a query that are described at once."""


class EvalProtocol:
    """The evaluation of one example: each prompt is queried on each frame in turn, independently of the other prompts.

    All examples of a batch step together. Finished examples are padded by repeating their last step; outputs are discarded.
    """

    uses_memory = True
    """Whether a step gets the memory of the model from the previous step."""
    shares_image = False
    """Whether all steps use a common image, so that it is encoded only once: the queried one, or the one that regions are drawn
    on."""
    adaptive = False
    """Whether queries depend on earlier outputs. Then every host that holds the example gets the outputs."""
    mask_steps = 0
    """Of a protocol of texts: the number of steps, before the others, that ask for the masks of the regions."""

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        """references: the reference frames of a queried frame; None: a query has one frame."""
        self.example, self._prediction_fn, self._references = example, prediction_fn, references
        self.steps = len(example.frames)
        self._predictions: list[list[Prediction]] = [[] for _ in example.prompts]

    @property
    def prompts(self) -> int:
        """Number of queries per step."""
        return len(self.example.prompts)

    def prepare_query(self, step: int, prompt: int, prepare: Callable[[Example], T]) -> T:
        """Reduces the example to the query of this step: one frame, with its reference frames if the model needs them, and one
        prompt without targets. Returns prepare(query)."""
        return prepare(self._single_query(self.prompt_at(prompt), step))

    def bucket_of_longest_query(self, prompt: int, bucket: Callable[[Example], T]) -> T:
        """Returns bucket(query) for the query of this prompt that needs the longest sequence over all steps."""
        return self.prepare_query(0, prompt, bucket)

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        """Adds the outputs of a query of the current step."""
        self._predictions[prompt].append(self._prediction_fn(self.prompt_at(prompt), outputs))

    def answers(self) -> Iterable[tuple[Prompt, list[Prediction]]]:
        """Returns the prompts to score, each with its predictions, one per frame."""
        return list(zip(self.example.prompts, self._predictions, strict=True))

    def prompt_at(self, index: int) -> Prompt:
        """Returns the prompt of the query at the current step."""
        return self.example.prompts[index]

    def _single_query(self, prompt: Prompt, frame: int) -> Example:
        query = dataclasses.replace(self.example, frames=self.example.frames[frame][None], prompts=(_without_targets(prompt),))
        if self._references is None or len(self.example.frames) == 1:
            return query
        numbers = self._references.query(frame, len(self.example.frames))
        return dataclasses.replace(query, frames=self.example.frames[list(numbers)], frame_numbers=numbers)


class AllFrames(EvalProtocol):
    """All frames and a group of prompts in one query, as in training. Used for validation.

    group_size: prompts per query. There is one step; `prompts` is the number of groups.
    """

    uses_memory = False

    def __init__(self, example: Example, prediction_fn: PredictionFn, *, group_size: int) -> None:
        super().__init__(example, prediction_fn)
        self.steps, self._group_size = 1, group_size
        self._outputs: dict[int, Any] = {}

    @property
    def prompts(self) -> int:
        return -(-len(self.example.prompts) // self._group_size)

    def group(self, number: int) -> tuple[Prompt, ...]:
        """Returns the prompts of a query."""
        return self.example.prompts[number * self._group_size : (number + 1) * self._group_size]

    def prepare_query(self, step: int, prompt: int, prepare: Callable[[Example], T]) -> T:
        return prepare(dataclasses.replace(self.example, prompts=tuple(map(_without_targets, self.group(prompt)))))

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        self._outputs[prompt] = outputs

    def answers(self) -> Iterator[tuple[Prompt, list[Prediction]]]:
        """Yields one prompt at a time, so that only the masks of one prompt are in memory."""
        for number, outputs in self._outputs.items():
            for k, prompt in enumerate(self.group(number)):
                outputs_by_frame = [
                    {name: value[t : t + 1, k : k + 1] for name, value in outputs.items()}
                    for t in range(len(self.example.frames))
                ]
                yield prompt, [self._prediction_fn(prompt, frame) for frame in outputs_by_frame]


def _without_targets(prompt: Prompt) -> Prompt:
    """Returns the prompt without its targets, which predictions do not need."""
    return dataclasses.replace(prompt, masks=None, labels=(), captions=())


class RegionTexts(EvalProtocol):
    """Texts of the regions of one image, at most REGIONS per query, each independent of the others. All queries use the same
    image, so it is encoded once."""

    uses_memory = False

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        super().__init__(example, prediction_fn, references)
        self.steps = 1
        self._queries = [
            (k, dataclasses.replace(prompt, regions=prompt.regions[start : start + REGIONS]))
            for k, prompt in enumerate(example.prompts)
            for start in range(0, max(1, len(prompt.regions)), REGIONS)
        ]
        self._texts: list[list[str]] = [[] for _ in example.prompts]

    @property
    def prompts(self) -> int:
        return len(self._queries)

    def prompt_at(self, index: int) -> Prompt:
        return self._queries[index][1]

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        number, query = self._queries[prompt]
        self._texts[number] += self._prediction_fn(query, outputs).texts

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        size = self.example.frames.shape[1:3]
        return [
            (prompt, [Prediction(np.zeros((0, *size), bool), texts=tuple(texts))])
            for prompt, texts in zip(self.example.prompts, self._texts, strict=True)
        ]


class PredictedPointTexts(RegionTexts):
    """Texts of regions that are marked by a random pixel of the mask that the model predicts for each (an ablation of SCA).
    Where the mask is empty, the region keeps its own mark."""

    shares_image = True
    adaptive = True
    mask_steps = 1

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        super().__init__(example, prediction_fn, references)
        self.steps = 2
        self._marked = [False] * len(self._queries)

    def _single_query(self, prompt: Prompt, frame: int) -> Example:
        return super()._single_query(prompt, 0)

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        if self._marked[prompt]:
            super().add_outputs(prompt, outputs)
            return
        number, query = self._queries[prompt]
        rng = np.random.default_rng([zlib.crc32(self.example.name.encode("utf-8", "replace")), prompt])
        regions = list(query.regions)
        for k, mask in enumerate(self._prediction_fn(query, outputs).masks):
            if len(pixels := np.argwhere(mask)):
                y, x = pixels[int(rng.integers(len(pixels)))] + 0.5
                regions[k] = Region.from_point(float(x), float(y))
        self._queries[prompt] = number, dataclasses.replace(query, regions=tuple(regions))
        self._marked[prompt] = True


class JointExpressions(EvalProtocol):
    """Expressions about one video whose objects must not overlap: on each frame, a pixel belongs to the most probable object,
    or to none (rule of InstructSeg's Ref-DAVIS script). The prediction function returns probabilities; the example has one
    joint prediction."""

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        super().__init__(example, prediction_fn, references)
        self._frames: list[Prediction] = []

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        super().add_outputs(prompt, outputs)
        if prompt == self.prompts - 1:
            self._frames.append(_without_overlap(np.concatenate([by_frame.pop().masks for by_frame in self._predictions])))

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        first, *_ = prompts = self.example.prompts
        masks = np.concatenate([prompt.masks for prompt in prompts if prompt.masks is not None])
        return [(dataclasses.replace(first, masks=masks), self._frames)]


def _without_overlap(masks: np.ndarray) -> Prediction:
    """Returns bool masks [N, H, W] without overlap from the probabilities [N, H, W] of objects: a pixel belongs to the most
    probable object, or to none."""
    return Prediction(merge_soft(masks) == np.arange(1, len(masks) + 1)[:, None, None])


class SemiSupervisedVOS(EvalProtocol):
    """Semi-supervised video object segmentation: the objects are drawn on the first frame and segmented on the others. The
    prediction of the first frame is the drawing. On other frames, a pixel belongs to the most probable object, or to none,
    because DAVIS allows one object per pixel. The prediction function returns probabilities."""

    shares_image = True

    def _single_query(self, prompt: Prompt, frame: int) -> Example:
        return dataclasses.replace(super()._single_query(prompt, frame), drawn_on=self.example.frames[0])

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        super().add_outputs(prompt, outputs)
        self._predictions[prompt].append(_without_overlap(self._predictions[prompt].pop().masks))

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        size = self.example.frames.shape[1:3]
        return [
            (prompt, [Prediction(np.stack([draw_region(region, size) for region in prompt.regions])), *predictions[1:]])
            for prompt, predictions in super().answers()
            if prompt.regions
        ]
