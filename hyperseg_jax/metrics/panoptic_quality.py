"""Panoptic quality (Kirillov et al. 2019) with void as the COCO tool treats it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from hyperseg_jax.metrics.sums import Sums


class PanopticQuality(Sums):
    """PQ, SQ and RQ: over all classes, things and stuff. Classes are kept by name, so that class lists may differ between
    prompts.

    A segment is found where one of its class overlaps it by more than 0.5; void pixels leave the union. An unmatched segment
    is wrong unless it lies mostly on void or on a crowd of its own class; crowds themselves are never to be found.
    """

    columns = 4  # of each class: IoU, true positives, false positives, false negatives
    within = ((0, 1),)

    def __init__(self) -> None:
        super().__init__()
        self._thing: dict[str, bool] = {}

    def update(
        self,
        predicted: np.ndarray,
        predicted_labels: Sequence[int],
        target: np.ndarray,
        target_labels: Sequence[int],
        classes: Sequence[str],
        things: Sequence[bool],
        ignore: np.ndarray | None = None,
        crowds: np.ndarray | None = None,
        crowd_labels: Sequence[int] = (),
    ) -> None:
        """One image. predicted [P, H, W], target [N, H, W]: bool, each free of overlaps; labels: index into classes.

        ignore: bool [H, W], void and crowds. crowds: bool [M, H, W], at most one of a class, with their crowd_labels; None
        takes all that is ignored for void.
        """
        self._thing |= dict(zip(classes, (bool(thing) for thing in things), strict=True))
        crowds = np.zeros((0, *target.shape[1:]), bool) if crowds is None else crowds
        void = np.zeros(target.shape[1:], bool) if ignore is None else ignore & ~crowds.any(0)
        p, n, m = len(predicted), len(target), len(crowds)
        truth = _numbered([*target, *crowds, void], void.shape)  # 1..N, then crowds, then void
        pairs = _numbered(predicted, void.shape) * (n + m + 2) + truth
        table = np.bincount(pairs.reshape(-1), minlength=(p + 1) * (n + m + 2)).reshape(p + 1, n + m + 2)
        ours, theirs = table[1:].sum(1), table[:, 1 : n + 1].sum(0)
        both, on_crowd, on_void = table[1:, 1 : n + 1], table[1:, n + 1 : n + m + 1], table[1:, -1]
        ratio = both / np.maximum((ours - on_void)[:, None] + theirs - both, 1)
        labels = np.asarray(predicted_labels, int).reshape(-1, 1)
        matched = (labels == np.asarray(target_labels, int)) & (ratio > 0.5)  # at most one in a row and in a column
        missed = ~matched.any(0) & (theirs > 0)
        excused = on_void + (on_crowd * (labels == np.asarray(crowd_labels, int))).sum(1)
        extra = ~matched.any(1) & (excused <= 0.5 * ours) & (ours > 0)
        for t, label in enumerate(target_labels):
            if matched[:, t].any():
                self._add(classes[label], float(ratio[matched[:, t], t][0]), 1, 0, 0)
            elif missed[t]:
                self._add(classes[label], 0, 0, 0, 1)
        for k, label in enumerate(predicted_labels):
            if extra[k]:
                self._add(classes[label], 0, 0, 1, 0)

    def merge(self, other: Self) -> None:
        """Adds what another accumulator has seen."""
        super().merge(other)
        self._thing |= other._thing

    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it."""
        return {**super().state(), "thing": self._thing}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The accumulator that gave this state."""
        made = super().from_state(state)
        made._thing = dict(state["thing"])
        if lacking := made._sums.keys() - made._thing.keys():
            raise ValueError(f"{sorted(lacking)[0]!r} is neither thing nor stuff")
        return made

    def by_class(self) -> dict[str, float]:
        """PQ of every class that was seen or predicted."""
        return {name: float(_quality(row)[0]) for name, row in sorted(self._sums.items())}

    def compute(self) -> dict[str, float]:
        """{"pq", "sq", "rq"}, each also with _things and _stuff, and "classes": means over the classes seen or predicted, 0
        for none."""
        rows = {name: _quality(row) for name, row in self._sums.items()}
        parts = {
            "": list(rows.values()),
            "_things": [row for name, row in rows.items() if self._thing[name]],
            "_stuff": [row for name, row in rows.items() if not self._thing[name]],
        }
        means = {suffix: np.mean(part, axis=0) if part else np.zeros(3) for suffix, part in parts.items()}
        scores = {
            f"{name}{suffix}": float(value)
            for suffix, mean in means.items()
            for name, value in zip(("pq", "sq", "rq"), mean, strict=True)
        }
        return scores | {"classes": float(len(rows))}


def _numbered(masks: Iterable[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """int64 [H, W]: the number, from 1, of the last mask that covers a pixel; 0 for none."""
    numbers = np.zeros(size, np.int64)
    for k, mask in enumerate(masks):
        numbers[mask] = k + 1
    return numbers


def _quality(row: np.ndarray) -> tuple[float, float, float]:
    iou_sum, right, extra, missed = row
    segmentation = iou_sum / right if right else 0.0
    recognition = right / (right + 0.5 * extra + 0.5 * missed)
    return segmentation * recognition, segmentation, recognition
