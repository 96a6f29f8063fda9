"""How an example is asked about, step by step, and what its answers are put together to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.results.objects import merge_soft
from hyperseg_jax.structs import Example, Prediction, Prompt

PredictionFn = Callable[[Prompt, Any], Prediction]
"""A prompt and the outputs about it on one frame -> the answer."""
T = TypeVar("T")


class EvalProtocol:
    """An example under way: each prompt is asked about each frame in turn, and answered for itself.

    All examples of a batch take a step together; one that has ended is asked its last step again, which nobody hears.
    """

    uses_memory = True
    """Whether a step sees what the model made of the step before."""
    same_image = False
    """Whether all steps are about the same image, so that it is encoded once."""
    adaptive = False
    """Whether what is asked depends on what was heard: then every host that holds the example hears."""

    def __init__(self, example: Example, prediction_fn: PredictionFn) -> None:
        self.example, self._prediction_fn = example, prediction_fn
        self.steps = len(example.frames)
        self._found: list[list[Prediction]] = [[] for _ in example.prompts]

    @property
    def prompts(self) -> int:
        """How many are asked in a step."""
        return len(self.example.prompts)

    def query(self, step: int, prompt: int, prepare: Callable[[Example], T]) -> T:
        """prepare(one frame and one prompt of the example, as they are asked)."""
        return prepare(self._only(self.current_prompt(prompt), step))

    def measure(self, prompt: int, bucket: Callable[[Example], T]) -> T:
        """bucket(the example as it is asked at the step that needs the most room)."""
        return self.query(0, prompt, bucket)

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        """Takes the outputs of the step."""
        self._found[prompt].append(self._prediction_fn(self.current_prompt(prompt), outputs))

    def answers(self) -> Iterable[tuple[Prompt, list[Prediction]]]:
        """What is scored: prompts, and the answers to each, frame by frame."""
        return list(zip(self.example.prompts, self._found, strict=True))

    def current_prompt(self, prompt: int) -> Prompt:
        """The prompt as it is asked at this step."""
        return self.example.prompts[prompt]

    def _only(self, prompt: Prompt, frame: int) -> Example:
        frames = self.example.frames[frame][None]
        return dataclasses.replace(self.example, frames=frames, prompts=(_without_targets(prompt),))


class AllFrames(EvalProtocol):
    """All frames in one call, and as many prompts as a batch has room for (validation: as the model is trained).

    room: prompts of a batch. Steps are one; `prompts` counts the groups that the prompts fall into.
    """

    uses_memory = False

    def __init__(self, example: Example, prediction_fn: PredictionFn, *, room: int) -> None:
        super().__init__(example, prediction_fn)
        self.steps, self._room = 1, room
        self._outputs: dict[int, Any] = {}

    @property
    def prompts(self) -> int:
        return -(-len(self.example.prompts) // self._room)

    def group(self, number: int) -> tuple[Prompt, ...]:
        return self.example.prompts[number * self._room : (number + 1) * self._room]

    def query(self, step: int, prompt: int, prepare: Callable[[Example], T]) -> T:
        return prepare(dataclasses.replace(self.example, prompts=tuple(map(_without_targets, self.group(prompt)))))

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        self._outputs[prompt] = outputs

    def answers(self) -> Iterator[tuple[Prompt, list[Prediction]]]:
        """One prompt after the other, so that the masks of one are in memory."""
        for number, outputs in self._outputs.items():
            for k, one in enumerate(self.group(number)):
                about = [
                    {name: value[t : t + 1, k : k + 1] for name, value in outputs.items()}
                    for t in range(len(self.example.frames))
                ]
                yield one, [self._prediction_fn(one, frame) for frame in about]


def _without_targets(prompt: Prompt) -> Prompt:
    """Targets are not the device's business."""
    return dataclasses.replace(prompt, masks=None, labels=())


class JointExpressions(EvalProtocol):
    """Expressions about one clip that share its pixels: on each frame a pixel goes to the most probable of their objects, or to
    none (rule of InstructSeg's Ref-DAVIS script). The answers of find are probabilities, those of an example one."""

    def __init__(self, example: Example, prediction_fn: PredictionFn) -> None:
        super().__init__(example, prediction_fn)
        self._frames: list[Prediction] = []

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        super().add_outputs(prompt, outputs)
        if prompt == self.prompts - 1:
            self._frames.append(_apart(np.concatenate([found.pop().masks for found in self._found])))

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        first, *_ = prompts = self.example.prompts
        masks = np.concatenate([prompt.masks for prompt in prompts if prompt.masks is not None])
        return [(dataclasses.replace(first, masks=masks), self._frames)]


def _apart(masks: np.ndarray) -> Prediction:
    """Objects [N, H, W] without overlap, out of their probabilities."""
    return Prediction(merge_soft(masks) == np.arange(1, len(masks) + 1)[:, None, None])


class SemiSupervisedVOS(EvalProtocol):
    """Objects drawn on the first frame: each frame is asked for what the first one shows in the drawn regions. The answer
    about the first frame is what was drawn; on the others a pixel goes to the most probable object, or to none, since DAVIS
    takes one number a pixel. The answers of find are probabilities."""

    def _only(self, prompt: Prompt, frame: int) -> Example:
        return dataclasses.replace(super()._only(prompt, frame), drawn_on=self.example.frames[0])

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        super().add_outputs(prompt, outputs)
        self._found[prompt].append(_apart(self._found[prompt].pop().masks))

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        size = self.example.frames.shape[1:3]
        return [
            (prompt, [Prediction(np.stack([draw_region(region, size) for region in prompt.regions])), *found[1:]])
            for prompt, found in super().answers()
            if prompt.regions
        ]
