"""J (region similarity) and F (boundary accuracy) of videos by the rules of DAVIS."""

from __future__ import annotations

import math

import numpy as np

from hyperseg_jax.metrics.sums import Sums, check_masks
from hyperseg_jax.ops.dilation import dilate

TOLERANCE = 0.008
"""Maximum distance of matching boundary pixels, as a share of the image diagonal (DAVIS)."""


def region_similarity(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Returns J, the IoU of two bool masks [H, W]; 1 if both are empty."""
    valid = True if ignore is None else ~ignore
    union = ((prediction | target) & valid).sum()
    return float((prediction & target & valid).sum() / union) if union else 1.0


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels [H, W] that differ from their right, lower or lower-right neighbour inside the image."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    center, right, below, corner = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (center ^ right) | (center ^ below) | (center ^ corner)


def boundary_accuracy(
    prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, tolerance: float = TOLERANCE
) -> float:
    """Returns F, the harmonic mean of boundary precision and recall.

    prediction, target, ignore: bool [H, W]. tolerance: in pixels if at least 1, else a share of the diagonal.
    """
    return boundary_f(boundary_regions(prediction, ignore, tolerance), boundary_regions(target, ignore, tolerance))


BoundaryRegions = tuple[np.ndarray, np.ndarray]
"""The boundary of a mask [H, W], and all pixels within the tolerance of it."""


def boundary_regions(mask: np.ndarray, ignore: np.ndarray | None = None, tolerance: float = TOLERANCE) -> BoundaryRegions:
    """Returns the boundary of a mask and its dilation by the tolerance."""
    radius = int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*mask.shape))
    line = boundary_map(mask if ignore is None else mask & ~ignore)
    return line, dilate(line, radius) if line.any() else line


def boundary_f(ours: BoundaryRegions, theirs: BoundaryRegions) -> float:
    """Returns F of two boundaries."""
    (line, near), (other, near_other) = ours, theirs
    if not line.any() or not other.any():
        return float(line.any() == other.any())
    precision = (line & near_other).sum() / line.sum()
    recall = (other & near).sum() / other.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def davis_statistics(values: np.ndarray) -> dict[str, float]:
    """Returns DAVIS statistics of an object's values over the frames: mean, recall (share above 0.5) and decay (mean of the
    first quarter minus that of the last)."""
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return {
        "mean": float(np.mean(values)),
        "recall": float(np.mean(values > 0.5)),
        "decay": float(np.mean(first) - np.mean(last)),
    }


def visible_again(target: np.ndarray) -> np.ndarray:
    """Returns the frames, bool [T], in which an object is visible after it had been visible and then not at all. target: bool
    [T, H, W]."""
    visible = target.any((1, 2))
    vanished = np.logical_or.accumulate(visible) & ~visible
    return visible & np.logical_or.accumulate(vanished)


def j_after_occlusion(j: np.ndarray, target: np.ndarray, frames: slice = slice(None)) -> tuple[float, int]:
    """Returns the mean of J over the frames of `visible_again`, and 1; (0, 0) if there are none. j: of these frames of the
    target, bool [T, H, W]."""
    again = visible_again(target)[frames]
    return (float(j[again].mean()), 1) if again.any() else (0.0, 0)


def occlusion_scores(total: float, count: float) -> dict[str, float]:
    """Returns the scores of the sums of `j_after_occlusion`; none if the count is 0."""
    return {"j_after_occlusion": total / count, "count_after_occlusion": count} if count else {}


class VideoScores(Sums):
    """Mean J, F and J&F over videos (each the mean over its frames), overall and by group; and the mean J after occlusion over
    the videos in which the target is visible again (each the mean over these frames)."""

    optional_scores = ("j_after_occlusion", "count_after_occlusion")

    # sums of each group: J, F, videos, J after occlusion, videos with occlusion
    columns = 5
    bounds = ((0, 2), (1, 2), (3, 4), (4, 2))
    count_column = 2
    fractional = (0, 1, 3)
    update_columns = (2,)

    def update(self, prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None, group: str = "") -> None:
        """Adds one video. prediction, target, ignore: bool [T, H, W]."""
        check_masks(prediction=prediction, target=target, ignore=ignore)
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        voids = [None] * len(target) if ignore is None else ignore
        frames = list(zip(prediction, target, voids, strict=True))
        j = np.array([region_similarity(*frame) for frame in frames])
        f = float(np.mean([boundary_accuracy(*frame) for frame in frames]))
        self._add(group, float(j.mean()), f, 1, *j_after_occlusion(j, target))

    def compute(self) -> dict[str, float]:
        """Returns {"j", "f", "jf", "count"} and "jf/<group>", zeros if empty; and, if a target was visible again,
        "j_after_occlusion" and "count_after_occlusion"."""
        total = self._total()
        j, f = total[:2] / max(total[2], 1)
        scores = {"j": float(j), "f": float(f), "jf": float((j + f) / 2), "count": float(total[2])}
        scores |= occlusion_scores(*total[3:].tolist())
        return scores | {f"jf/{group}": float(row[:2].mean() / row[2]) for group, row in sorted(self._sums.items()) if group}
