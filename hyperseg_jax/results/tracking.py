"""Tracks instances over the frames of a video by appearance: the tracker of IDOL (Wu et al. 2022).

HyperSeg's release contains it but does not call it. Candidates are sorted best first.
"""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np

BACKDROP = -1  # overlaps no better candidate of the frame, but scores too low to start a track
DROPPED = -2  # no track and mostly covered by a better candidate of the frame


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The tracks of one frame. kept: int [n], indices of the candidates that are not duplicates. ids: int [n], their track
    ids from 0, BACKDROP or DROPPED."""

    kept: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass
class _Track:
    embedding: np.ndarray  # moving average
    last_frame: int
    recent: deque[tuple[float, np.ndarray]]  # (score, embedding) of its last frames
    frames: int = 1  # number of frames in which it was seen


class Tracker:
    """Tracks instances over the frames of one video. The defaults are the published values.

    duplicate_iou: candidates whose IoU with a better candidate exceeds it are removed. backdrop_iou: an untracked candidate is
    backdrop if its IoU with every better candidate is below it. first_score, new_score: score that a candidate must exceed to
    start a track, while there are no tracks and later. match_score: similarity to a track that a candidate must exceed, 0..1.
    forget_after: frames after which an unseen track is dropped. momentum: weight of the newest embedding in a track's moving
    average. long_memory: match with the score-weighted mean of a track's last `memory` embeddings instead of the moving
    average. recent_first: newer embeddings get more weight in this mean. prefer_long: if several tracks match, those seen in
    more frames get more weight.
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
        """Returns the moving-average embedding [D] of every live track, by track id."""
        return {number: track.embedding for number, track in self._tracks.items()}

    def update(self, masks: np.ndarray, scores: np.ndarray, embeddings: np.ndarray) -> Tracked:
        """Processes the next frame: bool masks [n, H, W], scores [n] in 0..1, embeddings [n, D] of candidates, best first."""
        overlap = mask_iou(masks)
        kept = suppress_duplicates(overlap, self.duplicate_iou)
        overlap, scores, embeddings = overlap[np.ix_(kept, kept)], scores[kept], embeddings[kept]
        ids = np.full(len(kept), DROPPED)
        threshold = self.first_score
        if self._tracks:
            threshold = self.new_score
            if len(kept):
                self._match(ids, embeddings)
        new = (ids == DROPPED) & (scores > threshold)
        ids[new] = self.num_tracks + np.arange(new.sum())
        self.num_tracks += int(new.sum())
        for k in np.flatnonzero(ids == DROPPED):
            if (overlap[k, :k] < self.backdrop_iou).all():
                ids[k] = BACKDROP
        self._update_tracks(ids, scores, embeddings)
        self._frame += 1
        return Tracked(kept, ids)

    def _match(self, ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Assigns to each candidate in order its most similar track, if the similarity suffices; each track is used once."""
        numbers, tracks = list(self._tracks), list(self._tracks.values())
        similarities = match_similarity(embeddings, np.stack([self._memory_embedding(track) for track in tracks]))
        frames = np.array([track.frames for track in tracks], np.float32)
        for k in range(len(ids)):
            row, matching = similarities[k].copy(), similarities[k] > 0.5
            if self.prefer_long and matching.sum() > 1:
                row *= np.where(matching, frames, frames[matching].mean())
            best = int(row.argmax())
            if row[best] > self.match_score:
                ids[k] = numbers[best]
                similarities[np.arange(len(ids)) != k, best] = 0

    def _memory_embedding(self, track: _Track) -> np.ndarray:
        if not self.long_memory:
            return track.embedding
        scores, embeddings = (np.array(part, np.float32) for part in zip(*track.recent, strict=True))
        weights = scores + np.arange(1, len(scores) + 1) / len(scores) if self.recent_first else scores
        return weights @ embeddings / weights.sum()

    def _update_tracks(self, ids: np.ndarray, scores: np.ndarray, embeddings: np.ndarray) -> None:
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
    """Returns the IoU of every pair of masks, 1 if both are empty. bool [n, H, W] -> float [n, n]."""
    flat = masks.reshape(len(masks), masks[0].size if len(masks) else 0).astype(np.float32)
    intersection, sizes = flat @ flat.T, flat.sum(1)
    return (intersection + 1e-6) / (sizes[:, None] + sizes - intersection + 1e-6)


def suppress_duplicates(overlap: np.ndarray, limit: float) -> np.ndarray:
    """Returns int [m]: candidates whose IoU with every kept earlier candidate is at most the limit. overlap: IoU [n, n]."""
    kept: list[int] = []
    for k in range(len(overlap)):
        if not (overlap[k, kept] > limit).any():
            kept.append(k)
    return np.array(kept, int)


def match_similarity(embeddings: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Returns the similarity [n, m] of candidates [n, D] and tracks [m, D], from the dot products of their embeddings: the mean
    of the softmax over tracks and the softmax over candidates."""
    products = embeddings @ memory.T
    exponentials = [np.exp(products - products.max(axis, keepdims=True)) for axis in (1, 0)]
    return (
        sum(exponential / exponential.sum(axis, keepdims=True) for exponential, axis in zip(exponentials, (1, 0), strict=True))
        / 2
    )
