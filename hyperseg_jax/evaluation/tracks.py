"""Video instances from candidates on each frame, associated by appearance embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn
from hyperseg_jax.results.instances import InstanceTracks
from hyperseg_jax.structs import Example, Prediction, Prompt


@dataclasses.dataclass
class _Track:
    """One instance. masks: by frame, [H, W]. classes: sum of its class probabilities over frames."""

    masks: dict[int, np.ndarray]
    classes: Any = 0.0

    def mean_classes(self) -> np.ndarray:
        """Returns the mean class probabilities over its frames."""
        return self.classes / len(self.masks)


class TrackedInstances(EvalProtocol):
    """A class list for a video. All frames of the prediction have the same instances; a mask is empty where an instance is not
    visible. The class and score of an instance are the maximum of its mean class probabilities (IDOL)."""

    def __init__(self, example: Example, prediction_fn: PredictionFn, references: ReferenceFrames | None = None) -> None:
        super().__init__(example, prediction_fn, references)
        self._instances = InstanceTracks()
        self._tracks: dict[int, _Track] = {}
        self._frames_seen = 0

    def add_outputs(self, prompt: int, outputs: Any) -> None:
        found = self._instances.update(self._prediction_fn(self.prompt_at(prompt), outputs))
        assert found.classes is not None
        for track_id, mask, classes in zip(found.track_ids, found.masks, found.classes, strict=True):
            track = self._tracks.setdefault(track_id, _Track({}))
            track.masks[self._frames_seen] = mask
            track.classes = track.classes + classes
        self._frames_seen += 1

    def answers(self) -> list[tuple[Prompt, list[Prediction]]]:
        ids = tuple(sorted(self._tracks, key=lambda track_id: -self._tracks[track_id].mean_classes().max()))
        tracks = [self._tracks[track_id] for track_id in ids]
        labels = tuple(int(track.mean_classes().argmax()) for track in tracks)
        scores = tuple(float(track.mean_classes().max()) for track in tracks)
        empty = np.zeros(self.example.frames.shape[1:3], bool)
        frames = [
            Prediction(np.array(masks, bool).reshape(-1, *empty.shape), labels, scores, track_ids=ids)
            for masks in ([track.masks.get(t, empty) for track in tracks] for t in range(self._frames_seen))
        ]
        return [(self.example.prompts[0], frames)]
