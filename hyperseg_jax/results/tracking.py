"""Instances of one frame -> the same instances over a clip, by appearance: the tracker of IDOL (Wu et al. 2022).

HyperSeg ships it without calling it. Embeddings are those of the "reid" head; a frame's candidates come best first.
"""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np

BACKDROP = -1  # seen, unlike anything else in the frame, but too weak to be a track of its own
DROPPED = -2  # mostly covered by a better candidate of the frame


@dataclasses.dataclass(frozen=True)
class Tracked:
    """kept: int [n], which of the frame's candidates are left once duplicates are out. ids: int [n], their tracks from 0, or
    BACKDROP or DROPPED."""

    kept: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass
class _Track:
    embedding: np.ndarray  # moving average
    last_frame: int
    recent: deque[tuple[float, np.ndarray]]  # (score, embedding) of its latest frames
    frames: int = 1  # in how many it was seen


class Tracker:
    """Follows instances over the frames of one clip. The defaults are the published ones.

    duplicate_iou: a candidate that overlaps a better one by more is left out. backdrop_iou: one that is no track counts as
    backdrop where it overlaps every better one by less. first_score, new_score: what a candidate must exceed to become a
    track, while there is none and later. match_score: what its similarity to a track must exceed, 0..1. forget_after: frames
    that a track lives on unseen. momentum: the weight of the newest embedding in a track's average.
    long_memory: compare with the score-weighted mean of a track's latest `memory` embeddings instead of that average;
    recent_first: newer ones weigh more in it. prefer_long: where several tracks match, those seen in more frames count for
    more.
    """

    def __init__(
        self,
        *,
        duplicate_iou: float = 0.7,
        backdrop_iou: float = 0.3,
        first_score: float = 0.2,
        new_score: float = 0.5,
        match_score: float = 0.5,
        forget_after: int = 10,
        momentum: float = 0.5,
        long_memory: bool = False,
        recent_first: bool = False,
        prefer_long: bool = False,
        memory: int = 10,
    ) -> None:
        self.duplicate_iou, self.backdrop_iou = duplicate_iou, backdrop_iou
        self.first_score, self.new_score, self.match_score = first_score, new_score, match_score
        self.forget_after, self.momentum = forget_after, momentum
        self.long_memory, self.recent_first, self.prefer_long, self.memory = long_memory, recent_first, prefer_long, memory
        self.num_tracks = 0
        self._tracks: dict[int, _Track] = {}
        self._frame = 0

    @property
    def embeddings(self) -> dict[int, np.ndarray]:
        """The averaged embedding [D] of every track that is not forgotten."""
        return {number: track.embedding for number, track in self._tracks.items()}

    def update(self, masks: np.ndarray, scores: np.ndarray, embeddings: np.ndarray) -> Tracked:
        """The next frame: bool masks [n, H, W], scores [n] in 0..1 and embeddings [n, D] of its candidates, best first."""
        overlap = mask_iou(masks)
        kept = without_duplicates(overlap, self.duplicate_iou)
        overlap, scores, embeddings = overlap[np.ix_(kept, kept)], scores[kept], embeddings[kept]
        ids = np.full(len(kept), DROPPED)
        threshold = self.first_score
        if self._tracks:
            threshold = self.new_score
            self._match(ids, embeddings)
        new = (ids == DROPPED) & (scores > threshold)
        ids[new] = self.num_tracks + np.arange(new.sum())
        self.num_tracks += int(new.sum())
        for k in np.flatnonzero(ids == DROPPED):
            if (overlap[k, :k] < self.backdrop_iou).all():
                ids[k] = BACKDROP
        self._remember(ids, scores, embeddings)
        self._frame += 1
        return Tracked(kept, ids)

    def _match(self, ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Gives each candidate in turn the track that is most like it, if that is enough; a track is given once."""
        numbers, tracks = list(self._tracks), list(self._tracks.values())
        alike = similarity(embeddings, np.stack([self._memory_of(track) for track in tracks]))
        frames = np.array([track.frames for track in tracks], np.float32)
        for k in range(len(ids)):
            row, matching = alike[k].copy(), alike[k] > 0.5
            if self.prefer_long and matching.sum() > 1:
                row *= np.where(matching, frames, frames[matching].mean())
            best = int(row.argmax())
            if row[best] > self.match_score:
                ids[k] = numbers[best]
                alike[np.arange(len(ids)) != k, best] = 0

    def _memory_of(self, track: _Track) -> np.ndarray:
        if not self.long_memory:
            return track.embedding
        scores, embeddings = (np.array(part, np.float32) for part in zip(*track.recent, strict=True))
        weights = scores + np.arange(1, len(scores) + 1) / len(scores) if self.recent_first else scores
        return weights @ embeddings / weights.sum()

    def _remember(self, ids: np.ndarray, scores: np.ndarray, embeddings: np.ndarray) -> None:
        for number, score, embedding in zip(ids.tolist(), scores.tolist(), embeddings, strict=True):
            if number < 0:
                continue
            if number not in self._tracks:
                self._tracks[number] = _Track(embedding, self._frame, deque(maxlen=self.memory))
            else:
                track = self._tracks[number]
                track.embedding = (1 - self.momentum) * track.embedding + self.momentum * embedding
                track.last_frame, track.frames = self._frame, track.frames + 1
            self._tracks[number].recent.append((score, embedding))
        self._tracks = {
            number: track for number, track in self._tracks.items() if self._frame - track.last_frame < self.forget_after
        }


def mask_iou(masks: np.ndarray) -> np.ndarray:
    """Overlap of every pair, 1 where both are empty. bool [n, H, W] -> float [n, n]."""
    flat = masks.reshape(len(masks), masks[0].size if len(masks) else 0).astype(np.float32)
    shared, sizes = flat @ flat.T, flat.sum(1)
    return (shared + 1e-6) / (sizes[:, None] + sizes - shared + 1e-6)


def without_duplicates(overlap: np.ndarray, limit: float) -> np.ndarray:
    """int [m]: the candidates, in order, that overlap none before them that stays by more than the limit. overlap [n, n]."""
    kept: list[int] = []
    for k in range(len(overlap)):
        if not (overlap[k, kept] > limit).any():
            kept.append(k)
    return np.array(kept, int)


def similarity(embeddings: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Softmax of dot products over the tracks and over the candidates, their mean. [n, D], [m, D] -> [n, m]."""
    products = embeddings @ memory.T
    powers = [np.exp(products - products.max(axis, keepdims=True)) for axis in (1, 0)]
    return sum(power / power.sum(axis, keepdims=True) for power, axis in zip(powers, (1, 0), strict=True)) / 2
