"""Panoptic quality (Kirillov et al. 2019) with void as the COCO tool treats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from hyperseg_jax.metrics.sums import Sums


class PanopticQuality(Sums):
    """PQ, SQ and RQ: over all classes, things and stuff. Classes are kept by name, so that class lists may differ between
    prompts. Ignored pixels (void, and crowds, which are not told apart here) leave the unions, and an unmatched segment
    that lies mostly on them is not wrong."""

    def __init__(self) -> None:
        super().__init__()  # sums of each class: IoU, true positives, false positives, false negatives
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
    ) -> None:
        """One picture. predicted [P, H, W], target [N, H, W]: bool, each free of overlaps; labels: index into classes."""
        self._thing |= dict(zip(classes, (bool(thing) for thing in things), strict=True))
        flat = [masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float64) for masks in (predicted, target)]
        void = np.zeros(flat[0].shape[1]) if ignore is None else ignore.reshape(-1).astype(np.float64)
        ours, theirs = flat[0], flat[1] * (1 - void)
        both = ours @ theirs.T
        on_void = ours @ void
        union = (ours.sum(1) - on_void)[:, None] + theirs.sum(1) - both
        ratio = both / np.maximum(union, 1)
        same = np.asarray(predicted_labels, int).reshape(-1, 1) == np.asarray(target_labels, int).reshape(1, -1)
        matched = same & (ratio > 0.5)  # at most one in a row and in a column, since segments do not overlap
        missed = ~matched.any(0) & (theirs.sum(1) > 0)
        extra = ~matched.any(1) & (on_void <= 0.5 * ours.sum(1)) & (ours.sum(1) > 0)
        for t, label in enumerate(target_labels):
            if matched[:, t].any():
                self._add(classes[label], float(ratio[matched[:, t], t][0]), 1, 0, 0)
            elif missed[t]:
                self._add(classes[label], 0, 0, 0, 1)
        for p, label in enumerate(predicted_labels):
            if extra[p]:
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
        return made

    def by_class(self) -> dict[str, float]:
        """PQ of every class that was seen or predicted."""
        return {name: float(_quality(row)[0]) for name, row in sorted(self._sums.items())}

    def compute(self) -> dict[str, float]:
        """{"pq", "sq", "rq", "pq_things", "pq_stuff", "classes"}: means over the classes seen or predicted; 0 for none."""
        rows = {name: _quality(row) for name, row in self._sums.items()}
        parts = {
            "": list(rows.values()),
            "_things": [row for name, row in rows.items() if self._thing[name]],
            "_stuff": [row for name, row in rows.items() if not self._thing[name]],
        }
        means = {suffix: np.mean(part, axis=0) if part else np.zeros(3) for suffix, part in parts.items()}
        scores = {name: float(value) for name, value in zip(("pq", "sq", "rq"), means[""], strict=True)}
        return scores | {f"pq{s}": float(means[s][0]) for s in ("_things", "_stuff")} | {"classes": float(len(rows))}


def _quality(row: np.ndarray) -> tuple[float, float, float]:
    iou_sum, right, extra, missed = row
    segmentation = iou_sum / right if right else 0.0
    recognition = right / (right + 0.5 * extra + 0.5 * missed)
    return segmentation * recognition, segmentation, recognition
