"""How an example is asked about, step by step, and what its answers are put together to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperseg_jax.evaluation.found import Found
from hyperseg_jax.results.objects import merge_soft
from hyperseg_jax.structs import Example, Prompt

Find = Callable[[Prompt, Any], Found]
"""A prompt and the outputs about it on one frame -> the answer."""
Prepare = Callable[[Example], dict[str, Any]]
"""An example of one frame and one prompt -> arrays."""


class Reply:
    """An example under way: each prompt is asked about each frame in turn, and answered for itself.

    All examples of a batch take a step together; one that has ended is asked its last step again, which nobody hears.
    """

    feeds_back = True
    """Whether a step sees what the model made of the step before."""
    depends = False
    """Whether what is asked depends on what was heard: then every host that holds the example hears."""

    def __init__(self, example: Example, find: Find) -> None:
        self.example, self._find = example, find
        self.steps = len(example.frames)
        self._found: list[list[Found]] = [[] for _ in example.prompts]

    @property
    def prompts(self) -> int:
        """How many are asked in a step."""
        return len(self.example.prompts)

    def ask(self, step: int, prompt: int, prepare: Prepare) -> dict[str, Any]:
        """Arrays of one frame and one prompt."""
        return prepare(self._only(self.asked(prompt), step))

    def hear(self, prompt: int, outputs: Any) -> None:
        """Takes the outputs of the step."""
        self._found[prompt].append(self._find(self.asked(prompt), outputs))

    def answers(self) -> list[tuple[Prompt, list[Found]]]:
        """What is scored: prompts, and the answers to each, frame by frame."""
        return list(zip(self.example.prompts, self._found, strict=True))

    def asked(self, prompt: int) -> Prompt:
        """The prompt as it is asked at this step."""
        return self.example.prompts[prompt]

    def _only(self, prompt: Prompt, frame: int) -> Example:
        """Without targets, which are not the device's business."""
        bare = dataclasses.replace(prompt, masks=None, labels=())
        return dataclasses.replace(self.example, frames=self.example.frames[frame][None], prompts=(bare,))


class Together(Reply):
    """Expressions about one clip that share its pixels: on each frame a pixel goes to the most probable of their objects, or to
    none (rule of InstructSeg's Ref-DAVIS script). The answers of find are probabilities, those of an example one."""

    def __init__(self, example: Example, find: Find) -> None:
        super().__init__(example, find)
        self._frames: list[Found] = []

    def hear(self, prompt: int, outputs: Any) -> None:
        super().hear(prompt, outputs)
        if prompt == self.prompts - 1:
            self._frames.append(_apart(np.concatenate([found.pop().masks for found in self._found])))

    def answers(self) -> list[tuple[Prompt, list[Found]]]:
        first, *_ = prompts = self.example.prompts
        masks = np.concatenate([prompt.masks for prompt in prompts if prompt.masks is not None])
        return [(dataclasses.replace(first, masks=masks), self._frames)]


def _apart(masks: np.ndarray) -> Found:
    """Objects [N, H, W] without overlap, out of their probabilities."""
    return Found(merge_soft(masks) == np.arange(1, len(masks) + 1)[:, None, None])


class FromFirstFrame(Reply):
    """Objects drawn on the first frame: each frame is asked for what the first one shows in the drawn regions. The answer
    about the first frame is what was drawn; on the others a pixel goes to the most probable object, or to none, since DAVIS
    takes one number a pixel. The answers of find are probabilities."""

    def __init__(self, example: Example, find: Find) -> None:
        super().__init__(example, find)
        self._first: Any = None

    def ask(self, step: int, prompt: int, prepare: Prepare) -> dict[str, Any]:
        arrays = super().ask(step, prompt, prepare)
        if self._first is None:
            self._first = arrays["clip_images"]
        return arrays | {"region_images": self._first}

    def hear(self, prompt: int, outputs: Any) -> None:
        super().hear(prompt, outputs)
        self._found[prompt].append(_apart(self._found[prompt].pop().masks))

    def answers(self) -> list[tuple[Prompt, list[Found]]]:
        return [
            (prompt, [Found(prompt.regions), *found[1:]]) for prompt, found in super().answers() if prompt.regions is not None
        ]
