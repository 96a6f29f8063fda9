"""Follows the instances of a class list through a video, frame by frame."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.results.tracking import Tracker
from hyperseg_jax.structs import Prediction

MIN_SCORE = 0.1
"""Candidates with a lower score are neither shown nor tracked (IDOL's threshold)."""


class InstanceTracks:
    """The tracks of one video. Memory does not grow with its length: a track that was not seen in the tracker's last
    `forget_after` frames is forgotten, and an instance that comes back later is a new one."""

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._classes: dict[int, tuple[np.ndarray, int]] = {}  # sum of class probabilities and number of frames, by track

    def __len__(self) -> int:
        """The number of tracks in memory."""
        return len(self._classes)

    def update(self, candidates: Prediction) -> Prediction:
        """Returns the instances of the next frame, in the order of their track ids.

        candidates: of answers.predict_candidates, best first. The class and the score of an instance are the maximum of its
        mean class probabilities over the frames so far (IDOL); `classes` are those of this frame.
        """
        assert candidates.classes is not None and candidates.embeddings is not None
        likely = np.flatnonzero(np.array(candidates.scores) >= MIN_SCORE)
        masks, classes, embeddings = candidates.masks[likely], candidates.classes[likely], candidates.embeddings[likely]
        tracked = self._tracker.update(masks, np.array(candidates.scores)[likely], embeddings)
        found = sorted((track, k) for track, k in zip(tracked.ids.tolist(), tracked.kept.tolist(), strict=True) if track >= 0)
        for track, k in found:
            total, frames = self._classes.get(track, (0.0, 0))
            self._classes[track] = total + classes[k].astype(np.float64), frames + 1
        means = [self._classes[track][0] / self._classes[track][1] for track, _ in found]
        self._classes = {track: self._classes[track] for track in self._tracker.embeddings}
        rows = [k for _, k in found]
        return Prediction(
            masks[rows],
            labels=tuple(int(mean.argmax()) for mean in means),
            scores=tuple(float(mean.max()) for mean in means),
            classes=classes[rows],
            embeddings=embeddings[rows],
            track_ids=tuple(track for track, _ in found),
        )
