"""Instances of a clip out of those of its frames: candidates of each frame, followed by what they look like."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn
from hyperseg_jax.results.tracking import Tracker
from hyperseg_jax.structs import Example, Prediction, Prompt


@dataclasses.dataclass
class _Track:
    """masks: by frame, [H, W]. classes: sum over its frames of how sure each class was."""

    masks: dict[int, np.ndarray]
    classes: Any = 0.0

    def sure(self) -> np.ndarray:
        return self.classes / len(self.masks)


class TrackedInstances(EvalProtocol):
    """A class list about a clip. Its answer has the same instances on every frame, empty where one is not seen; an instance has
    the class, and the score, that its frames are surest of on average (IDOL)."""

    def __init__(self, example: Example, prediction_fn: PredictionFn) -> None:
        super().__init__(example, prediction_fn)
        self._tracker = Tracker()
        self._tracks: dict[int, _Track] = {}
        self._heard = 0

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        found = self._prediction_fn(self.current_prompt(prompt), outputs)
        assert found.embeddings is not None and found.classes is not None
        seen = self._tracker.update(found.masks, np.array(found.scores), found.embeddings)
        for place, number in zip(seen.kept.tolist(), seen.ids.tolist(), strict=True):
            if number >= 0:
                track = self._tracks.setdefault(number, _Track({}))
                track.masks[self._heard] = found.masks[place]
                track.classes = track.classes + found.classes[place]
        self._heard += 1

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        tracks = sorted(self._tracks.values(), key=lambda track: -track.sure().max())
        labels = tuple(int(track.sure().argmax()) for track in tracks)
        scores = tuple(float(track.sure().max()) for track in tracks)
        nothing = np.zeros(self.example.frames.shape[1:3], bool)
        frames = [
            Prediction(np.array(masks, bool).reshape(-1, *nothing.shape), labels, scores)
            for masks in ([track.masks.get(t, nothing) for track in tracks] for t in range(self._heard))
        ]
        return [(self.example.prompts[0], frames)]
