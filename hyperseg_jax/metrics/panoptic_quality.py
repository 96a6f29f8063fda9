"""Panoptic quality (Kirillov et al. 2019), with void pixels treated as in the COCO tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from hyperseg_jax.metrics.sums import Sums, check_masks, check_names, is_list


class PanopticQuality(Sums):
    """PQ, SQ and RQ over all classes, things and stuff. Classes are identified by name, so class lists may differ between
    prompts.

    A target is matched by a prediction of its class with IoU above 0.5; void pixels are excluded from the union. An unmatched
    prediction is a false positive unless most of it is void or a crowd of its class; crowds are never targets.
    """

    columns = 4  # of each class: IoU, true positives, false positives, false negatives
    bounds = ((0, 1),)
    fractional = (0,)

    def __init__(self) -> None:
        super().__init__()
        self._is_thing: dict[str, bool] = {}

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
        """Adds one image. predicted [P, H, W], target [N, H, W]: bool, without overlaps; labels: indices into classes.

        ignore: bool [H, W], void and crowds. crowds: bool [M, H, W], at most one per class, with their crowd_labels; if
        None, all ignored pixels are void.
        """
        check_names("classes", classes)
        check_masks(predicted=predicted, target=target, ignore=ignore, crowds=crowds)
        self._is_thing |= dict(zip(classes, (bool(thing) for thing in things), strict=True))
        crowds = np.zeros((0, *target.shape[1:]), bool) if crowds is None else crowds
        void = np.zeros(target.shape[1:], bool) if ignore is None else ignore & ~crowds.any(0)
        p, n, m = len(predicted), len(target), len(crowds)
        truth = _number_map([*target, *crowds, void], void.shape)  # 1..N, then crowds, then void
        pairs = _number_map(predicted, void.shape) * (n + m + 2) + truth
        table = np.bincount(pairs.reshape(-1), minlength=(p + 1) * (n + m + 2)).reshape(p + 1, n + m + 2)
        predicted_areas, target_areas = table[1:].sum(1), table[:, 1 : n + 1].sum(0)
        intersections, on_crowd, on_void = table[1:, 1 : n + 1], table[1:, n + 1 : n + m + 1], table[1:, -1]
        ious = intersections / np.maximum((predicted_areas - on_void)[:, None] + target_areas - intersections, 1)
        labels = np.asarray(predicted_labels, int).reshape(-1, 1)
        matched = (labels == np.asarray(target_labels, int)) & (ious > 0.5)  # at most one in a row and in a column
        missed = ~matched.any(0) & (target_areas > 0)
        ignorable = on_void + (on_crowd * (labels == np.asarray(crowd_labels, int))).sum(1)
        false_positives = ~matched.any(1) & (ignorable <= 0.5 * predicted_areas) & (predicted_areas > 0)
        for t, label in enumerate(target_labels):
            if matched[:, t].any():
                self._add(classes[label], float(ious[matched[:, t], t][0]), 1, 0, 0)
            elif missed[t]:
                self._add(classes[label], 0, 0, 0, 1)
        for k, label in enumerate(predicted_labels):
            if false_positives[k]:
                self._add(classes[label], 0, 0, 1, 0)

    def merge(self, other: Self) -> None:
        """Adds the sums of another accumulator."""
        super().merge(other)
        self._is_thing |= other._is_thing

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON-compatible values."""
        return {**super().state(), "thing": self._is_thing}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restores an accumulator."""
        restored = super().from_state(state)
        if type(state["thing"]) is not dict or not is_list(list(state["thing"].values()), bool):
            raise ValueError("its field `thing` does not map class names to true or false")
        restored._is_thing = dict(state["thing"])
        if missing := restored._sums.keys() - restored._is_thing.keys():
            raise ValueError(f"its field `thing` lacks the class {sorted(missing)[0]!r}")
        return restored

    def by_class(self) -> dict[str, float]:
        """Returns PQ of every class that was labelled or predicted."""
        return {name: float(_quality_from_sums(row)[0]) for name, row in sorted(self._sums.items())}

    def compute(self) -> dict[str, float]:
        """Returns {"pq", "sq", "rq"}, each also with _things and _stuff, and "classes": means over the classes labelled or
        predicted, 0 if there are none."""
        rows = {name: _quality_from_sums(row) for name, row in self._sums.items()}
        parts = {
            "": list(rows.values()),
            "_things": [row for name, row in rows.items() if self._is_thing[name]],
            "_stuff": [row for name, row in rows.items() if not self._is_thing[name]],
        }
        means = {suffix: np.mean(part, axis=0) if part else np.zeros(3) for suffix, part in parts.items()}
        scores = {
            f"{name}{suffix}": float(value)
            for suffix, mean in means.items()
            for name, value in zip(("pq", "sq", "rq"), mean, strict=True)
        }
        return scores | {"classes": float(len(rows))}


def _number_map(masks: Iterable[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """Returns int64 [H, W]: the number, from 1, of the last mask that covers a pixel; 0 if none does."""
    numbers = np.zeros(size, np.int64)
    for k, mask in enumerate(masks):
        numbers[mask] = k + 1
    return numbers


def _quality_from_sums(row: np.ndarray) -> tuple[float, float, float]:
    iou_sum, matches, extra, missed = row
    segmentation = iou_sum / matches if matches else 0.0
    recognition = matches / (matches + 0.5 * extra + 0.5 * missed)
    return segmentation * recognition, segmentation, recognition
