"""AP of video instances, and identity switches: how often the track that covers an object changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.optimize import linear_sum_assignment

from hyperseg_jax.metrics.video_ap import VideoAP

MIN_IOU = 0.5
MAX_SWITCHES = 2**40
"""Limit of a restored state."""


class TrackScores(VideoAP):
    """VideoAP, and "switches": the mean over the clips of `count_switches`, of all tracks and classes together."""

    def __init__(self) -> None:
        super().__init__()
        self._switches: dict[str, int] = {}

    def update(
        self,
        name: str,
        predicted: np.ndarray,
        scores: Sequence[float],
        predicted_classes: Sequence[str],
        target: np.ndarray,
        target_classes: Sequence[str],
        crowd: Sequence[bool] = (),
        target_areas: Sequence[float] = (),
    ) -> None:
        """Adds a clip, see MaskAP.update. Crowds have no identity, so no track of a crowd switches."""
        super().update(name, predicted, scores, predicted_classes, target, target_classes, crowd, target_areas)
        objects = [mask for mask, is_crowd in zip(target, crowd or [False] * len(target), strict=True) if not is_crowd]
        self._switches[name] = count_switches(predicted, objects)

    def merge(self, other: Self) -> None:
        super().merge(other)
        self._switches |= other._switches

    def names(self) -> tuple[str, ...]:
        return (*super().names(), "switches")

    def state(self) -> dict[str, Any]:
        return super().state() | {"switches": self._switches}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        restored, switches = super().from_state(state), state["switches"]
        if switches.keys() != restored._images.keys():
            raise ValueError("its clips with switches are not those with matches")
        if not all(type(count) is int and 0 <= count < MAX_SWITCHES for count in switches.values()):
            raise ValueError("its switches are not counts")
        restored._switches = dict(switches)
        return restored

    def compute(self) -> dict[str, float]:
        """Returns the scores of MaskAP, and "switches" if there are clips."""
        mean = {"switches": float(np.mean(list(self._switches.values())))} if self._switches else {}
        return super().compute() | mean


def count_switches(predicted: Sequence[np.ndarray] | np.ndarray, targets: Sequence[np.ndarray] | np.ndarray) -> int:
    """Returns the identity switches of a clip. predicted: masks of tracks, bool [T, H, W]. targets: those of true objects.

    As in CLEAR MOT (Bernardin and Stiefelhagen 2008), each frame matches objects and tracks one to one, with an IoU of at
    least MIN_IOU. An object first keeps the track that it had last, if their IoU allows it; the other objects and tracks are
    matched with the largest sum of IoUs. A switch is an object that is matched to another track than the last time, however
    long ago that was. Unmatched objects are no switches.
    """
    last: dict[int, int] = {}
    switches = 0
    for t in range(len(targets[0]) if len(targets) else 0):
        iou = _pairwise_iou([mask[t] for mask in targets], [mask[t] for mask in predicted])
        iou[iou < MIN_IOU] = 0
        kept: dict[int, int] = {}
        for target, track in sorted(last.items(), key=lambda pair: -iou[pair]):
            if iou[target, track] and track not in kept.values():
                kept[target] = track
        iou[list(kept)], iou[:, list(kept.values())] = 0, 0
        others = zip(*linear_sum_assignment(-iou), strict=True)
        matched = kept | {int(target): int(track) for target, track in others if iou[target, track]}
        switches += sum(last.get(target, track) != track for target, track in matched.items())
        last |= matched
    return switches


def _pairwise_iou(targets: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the IoU [N, P] of masks [H, W]; 0 if both are empty."""
    ours, theirs = (np.array([mask.ravel() for mask in masks], np.float32) for masks in (targets, tracks))
    if not len(ours) or not len(theirs):
        return np.zeros((len(ours), len(theirs)))
    shared = ours @ theirs.T
    union = ours.sum(1)[:, None] + theirs.sum(1) - shared
    return shared / np.maximum(union, 1)
