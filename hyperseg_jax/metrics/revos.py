"""ReVOS (Yan et al. 2024): J, F, accuracy A and robustness R of every expression and video."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.metrics.jf import boundary_accuracy, region_similarity
from hyperseg_jax.metrics.sums import Sums, check_rules

OVERALL_GROUPS = ("referring", "reasoning")
"""Groups whose mean is the overall score; expressions without target ("absent") are reported separately."""


def accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """Returns A, the share of equal pixels. bool [H, W]."""
    return float(np.mean(prediction == target))


def robustness(prediction: np.ndarray, target: np.ndarray, foreground: np.ndarray) -> float:
    """Returns R: 1 - false positive pixels / foreground pixels of all objects of the frame, at least 0. bool [H, W]."""
    return float(max(1 - (prediction & ~target).sum() / (foreground.sum() + 1e-6), 0))


def released_accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """Returns A as in the published script. prediction: uint8 [H, W] of 0 and 255; target: uint8, number of objects per
    pixel, so object pixels are never equal."""
    return float(np.mean(prediction == target))


def released_robustness(prediction: np.ndarray, target: np.ndarray, foreground: np.ndarray) -> float:
    """Returns R as in the published script, with uint8 overflow: a false positive pixel counts 255 times, a pixel where two
    objects overlap once. foreground: uint8, number of objects per pixel."""
    false_positives = ((1 - target.astype(np.uint8)) * prediction).sum()
    return float(max(1 - false_positives / (foreground.sum() + 1e-6), 0))


class ReVosScores(Sums):
    """Means over expressions by group ("referring", "reasoning", "absent"); the overall score is the mean of the first two.

    rules: "official" compares bool masks. "released" reproduces the published script: A and R use masks of 0 and 255, and the
    values of each expression are rounded to a hundredth of a percent.
    """

    optional_scores = ("j", "f", "jf", "a", "r")

    # sums of each group: J, F, A, expressions, R, expressions with a foreground
    columns = 6
    bounds = ((0, 3), (1, 3), (2, 3), (5, 3), (4, 5))
    count_column = 3
    fractional = (0, 1, 2, 4)
    update_columns = (3,)

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(
        self,
        prediction: np.ndarray,
        target: np.ndarray,
        foreground: np.ndarray | None = None,
        group: str = "",
        objects: np.ndarray | None = None,
    ) -> None:
        """Adds one video. prediction, target: bool [T, H, W]. foreground: bool [T, H, W], all objects; None omits R.

        objects: uint8 [T, H, W], the number of annotations that cover a pixel, for the released rule; the target by default.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        pairs = list(zip(prediction, target, strict=True))
        j = float(np.mean([region_similarity(*pair) for pair in pairs]))
        f = float(np.mean([boundary_accuracy(*pair) for pair in pairs]))
        has_foreground = foreground is not None
        foregrounds = foreground if foreground is not None else np.zeros_like(target)
        if self._options["rules"] == "official":
            a = float(np.mean([accuracy(*pair) for pair in pairs]))
            r = float(
                np.mean([robustness(*pair, foreground_mask) for pair, foreground_mask in zip(pairs, foregrounds, strict=True)])
            )
        else:
            counts = target.astype(np.uint8) if objects is None else objects
            prediction_255 = np.where(prediction, np.uint8(255), np.uint8(0))
            a = float(np.mean([released_accuracy(*frame) for frame in zip(prediction_255, counts, strict=True)]))
            r = float(np.mean([released_robustness(*frame) for frame in zip(prediction_255, counts, foregrounds, strict=True)]))
            j, f, a, r = (float(np.round(100 * value, 2)) / 100 for value in (j, f, a, r))
        self._add(group, j, f, a, 1, r if has_foreground else 0, has_foreground)

    def compute(self) -> dict[str, float]:
        """Returns {"j", "f", "jf", "a", "r", "count"} and each as "<name>/<group>". "r" is missing without foregrounds."""
        groups = {name: _means_from_sums(row) for name, row in sorted(self._sums.items())}
        overall = [groups[name] for name in OVERALL_GROUPS if name in groups] or list(groups.values())
        names = [name for name in ("j", "f", "jf", "a", "r") if overall and all(name in group for group in overall)]
        scores = {name: float(np.mean([group[name] for group in overall])) for name in names}
        scores["count"] = float(sum(row[3] for row in self._sums.values()))
        return scores | {f"{name}/{group}": value for group, means in groups.items() if group for name, value in means.items()}


def _means_from_sums(row: np.ndarray) -> dict[str, float]:
    j, f, a = (row[:3] / row[3]).tolist()
    means = {"j": j, "f": f, "jf": (j + f) / 2, "a": a}
    return means | {"r": float(row[4] / row[5])} if row[5] else means
