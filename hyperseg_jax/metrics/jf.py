"""J (region similarity) and F (boundary accuracy) of clips by the rules of DAVIS."""

from __future__ import annotations

import math

import numpy as np

from hyperseg_jax.metrics.sums import Sums
from hyperseg_jax.ops.dilation import dilate

TOLERANCE = 0.008
"""Of the image's diagonal: how far two borders may lie apart (DAVIS)."""


def region_similarity(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """J: the IoU of two bool masks [H, W], 1 where both are empty."""
    counted = True if ignore is None else ~ignore
    union = ((prediction | target) & counted).sum()
    return float((prediction & target & counted).sum() / union) if union else 1.0


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """The pixels [H, W] that differ from their right, lower or lower right neighbour; the far edges know fewer."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, corner = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (here ^ right) | (here ^ below) | (here ^ corner)


def boundary_accuracy(
    prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, tolerance: float = TOLERANCE
) -> float:
    """F: the harmonic mean of how much of each border lies near the other.

    prediction, target, ignore: bool [H, W]. tolerance: pixels from 1 on, else a share of the diagonal.
    """
    return agreement(border(prediction, ignore, tolerance), border(target, ignore, tolerance))


Border = tuple[np.ndarray, np.ndarray]
"""The border of a mask [H, W], and all that lies near it."""


def border(mask: np.ndarray, ignore: np.ndarray | None = None, tolerance: float = TOLERANCE) -> Border:
    """What boundary_accuracy compares of a mask."""
    radius = int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*mask.shape))
    line = boundary_map(mask if ignore is None else mask & ~ignore)
    return line, dilate(line, radius) if line.any() else line


def agreement(ours: Border, theirs: Border) -> float:
    """F of two borders."""
    (line, near), (other, near_other) = ours, theirs
    if not line.any() or not other.any():
        return float(line.any() == other.any())
    precision = (line & near_other).sum() / line.sum()
    recall = (other & near).sum() / other.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def statistics(values: np.ndarray) -> dict[str, float]:
    """What DAVIS tells of one object's values over time: mean, recall (share above 0.5) and decay (first quarter minus
    last)."""
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return {
        "mean": float(np.mean(values)),
        "recall": float(np.mean(values > 0.5)),
        "decay": float(np.mean(first) - np.mean(last)),
    }


class ClipScores(Sums):
    """Mean J, F and J&F over clips (each the mean over its frames), whole and by group."""

    # sums of each group: J, F, clips
    columns = 3
    within = ((0, 2), (1, 2))
    counted = 2

    def update(self, prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, group: str = "") -> None:
        """prediction, target, ignore: bool [T, H, W]."""
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        voids = [None] * len(target) if ignore is None else ignore
        frames = list(zip(prediction, target, voids, strict=True))
        j = float(np.mean([region_similarity(*frame) for frame in frames]))
        f = float(np.mean([boundary_accuracy(*frame) for frame in frames]))
        self._add(group, j, f, 1)

    def compute(self) -> dict[str, float]:
        """{"j", "f", "jf", "count"} and "jf/<group>"; zeros where nothing was seen."""
        total = self._total()
        j, f = total[:2] / max(total[2], 1)
        scores = {"j": float(j), "f": float(f), "jf": float((j + f) / 2), "count": float(total[2])}
        return scores | {f"jf/{group}": float(row[:2].mean() / row[2]) for group, row in sorted(self._sums.items()) if group}
