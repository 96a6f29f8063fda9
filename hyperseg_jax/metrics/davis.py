"""DAVIS 2017: J and F of every object, for predicted objects (semi-supervised) or matched proposals (unsupervised)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from hyperseg_jax.metrics.jf import (
    boundary_f,
    boundary_regions,
    davis_statistics,
    j_after_occlusion,
    occlusion_scores,
    region_similarity,
)
from hyperseg_jax.metrics.sums import Sums, check_masks

TASKS = ("semi-supervised", "unsupervised")
MAX_PROPOSALS = 20
"""Maximum proposals per video in the unsupervised task (the benchmark's limit)."""


def object_values(prediction: np.ndarray, target: np.ndarray, void: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns J and F, float64 [P, N, T], of predictions [P, T, H, W] and targets [N, T, H, W]. void: bool [T, H, W]."""
    j = np.zeros((len(prediction), len(target), target.shape[1]))
    f = np.zeros_like(j)
    for t in range(target.shape[1]):
        ignore = None if void is None else void[t]
        ours, theirs = ([boundary_regions(mask, ignore) for mask in masks[:, t]] for masks in (prediction, target))
        for p, n in np.ndindex(j.shape[:2]):
            j[p, n, t] = region_similarity(prediction[p, t], target[n, t], ignore)
            f[p, n, t] = boundary_f(ours[p], theirs[n])
    return j, f


def match_proposals(j: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Returns int [N], the proposal of each object that maximizes the mean J&F, one to one. j, f: [P, N, T], P >= N."""
    rows, columns = linear_sum_assignment(-(j.mean(2) + f.mean(2)) / 2)
    return rows[np.argsort(columns)]


class DavisScores(Sums):
    """J and F with mean, recall and decay over the frames, averaged over objects by group, then over groups.

    task: "semi-supervised": prediction k is object k, and the first and last frame are excluded. "unsupervised": proposals are
    matched to objects, and all frames are included (used for Ref-DAVIS, with one group per annotator).
    J after occlusion is that of jf.VideoScores, over objects; an object may vanish in an excluded frame.
    """

    optional_scores = ("j_after_occlusion", "count_after_occlusion")

    # sums of each group: J mean, recall, decay, F mean, recall, decay, objects, J after occlusion, objects with occlusion
    columns = 9
    bounds = (*((k, 6) for k in range(6)), (7, 8), (8, 6))
    count_column = 6
    fractional = (*range(6), 7)
    signed = (2, 5)  # decays

    def __init__(self, task: str = "semi-supervised") -> None:
        if task not in TASKS:
            raise ValueError(f"task={task!r}: choose one of {', '.join(TASKS)}")
        super().__init__(task=task)

    def update(self, prediction: np.ndarray, target: np.ndarray, void: np.ndarray | None = None, group: str = "") -> None:
        """Adds one video. prediction: bool [P, T, H, W]; target: bool [N, T, H, W]; void: bool [T, H, W].

        Raises ValueError if the numbers of objects differ (semi-supervised) or exceed MAX_PROPOSALS (unsupervised).
        """
        check_masks(prediction=prediction, target=target, void=void)
        if prediction.shape[1:] != target.shape[1:]:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        if self._options["task"] == "unsupervised":
            if len(prediction) > MAX_PROPOSALS:
                raise ValueError(f"{len(prediction)} proposals; DAVIS allows {MAX_PROPOSALS}")
            num_missing = max(len(target) - len(prediction), 0)
            proposals = np.concatenate([prediction, np.zeros((num_missing, *target.shape[1:]), bool)])
            j, f = object_values(proposals, target, void)
            matches, objects = match_proposals(j, f), np.arange(len(target))
            rows = list(zip(j[matches, objects], f[matches, objects], strict=True))
            counted = slice(None)
        else:
            if len(prediction) != len(target):
                raise ValueError(
                    f"{len(prediction)} predictions for {len(target)} objects; pass one for each object, in their order"
                )
            if target.shape[1] < 3:
                raise ValueError(f"{target.shape[1]} frames, but the first and last are excluded; pass at least 3")
            counted = slice(1, -1)
            inner = None if void is None else void[counted]
            values = [
                object_values(ours[None, counted], true[None, counted], inner)
                for ours, true in zip(prediction, target, strict=True)
            ]
            rows = [(j[0, 0], f[0, 0]) for j, f in values]
        for (j, f), true in zip(rows, target, strict=True):
            after = j_after_occlusion(j, true, counted)
            self._add(group, *davis_statistics(j).values(), *davis_statistics(f).values(), 1, *after)

    def compute(self) -> dict[str, float]:
        """Returns {"j", "f", "jf", "j_recall", "j_decay", "f_recall", "f_decay", "count"} and "jf/<group>", zeros if empty; and
        those of jf.occlusion_scores."""
        total = self._total()
        means = [row[:6] / row[6] for row in self._sums.values()] or [np.zeros(6)]
        j, j_recall, j_decay, f, f_recall, f_decay = np.mean(means, axis=0).tolist()
        scores = {
            "j": j,
            "f": f,
            "jf": (j + f) / 2,
            "j_recall": j_recall,
            "j_decay": j_decay,
            "f_recall": f_recall,
            "f_decay": f_decay,
            "count": float(total[6]),
        }
        scores |= occlusion_scores(*total[7:].tolist())
        groups = {name: row for name, row in sorted(self._sums.items()) if name}
        return scores | {f"jf/{name}": float((row[0] + row[3]) / 2 / row[6]) for name, row in groups.items()}
