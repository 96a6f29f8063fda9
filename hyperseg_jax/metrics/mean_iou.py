"""Mean IoU of semantic segmentation, as computed by mmsegmentation and IFSeg."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.sums import Sums, check_masks, check_names


class SemanticScores(Sums):
    """IoU and accuracy of each class from pixel counts over all images. A class that is neither labelled nor predicted has no
    IoU; a class that is predicted but never labelled has IoU 0."""

    # sums of each class: intersection, labelled pixels, predicted pixels
    columns = 3
    bounds = ((0, 1), (0, 2))

    def update(
        self, prediction: np.ndarray, target: np.ndarray, classes: Sequence[str], ignore: np.ndarray | None = None
    ) -> None:
        """Adds one image. prediction, target: int [H, W], class indices. ignore: bool [H, W]."""
        check_names("classes", classes)
        check_masks(ignore=ignore)
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        valid = np.ones(target.shape, bool) if ignore is None else ~ignore
        ours, theirs, count = prediction[valid], target[valid], len(classes)
        parts = [np.bincount(part, minlength=count) for part in (ours[ours == theirs], theirs, ours)]
        if any(len(part) > count for part in parts):
            raise ValueError(f"labels up to {max(ours.max(), theirs.max())} of {count} classes; ignore pixels without a class")
        for k in np.flatnonzero(parts[1] + parts[2]).tolist():
            self._add(classes[k], *(part[k] for part in parts))

    def by_class(self) -> dict[str, float]:
        """Returns the IoU of every class that was labelled or predicted."""
        return {name: float(row[0] / (row[1] + row[2] - row[0])) for name, row in sorted(self._sums.items())}

    def compute(self) -> dict[str, float]:
        """Returns {"miou", "macc" (mean recall of labelled classes), "aacc" (pixel accuracy), "classes"}; zeros if empty."""
        ious, total = self.by_class(), self._total()
        recalls = [row[0] / row[1] for row in self._sums.values() if row[1]]
        return {
            "miou": float(np.mean([*ious.values()] or [0.0])),
            "macc": float(np.mean(recalls or [0.0])),
            "aacc": float(total[0] / max(total[2], 1)),
            "classes": float(len(ious)),
        }


class ZeroShotScores(SemanticScores):
    """The same with the means over the classes that were seen in training and those that were not, and their harmonic mean.
    IFSeg's authors report none of the three."""

    def __init__(self, unseen: Sequence[str]) -> None:
        """unseen: the classes without training data. Raises ValueError if they are no names."""
        check_names("unseen", unseen)
        super().__init__(unseen=list(unseen))

    def compute(self) -> dict[str, float]:
        """Returns the scores of SemanticScores, and "seen_miou", "unseen_miou" and "harmonic_miou"."""
        groups = harmonic_mean(self.by_class(), self._options["unseen"])
        return super().compute() | {f"{name}_miou": value for name, value in groups.items()}


def harmonic_mean(ious: dict[str, float], unseen: Sequence[str]) -> dict[str, float]:
    """Returns {"seen", "unseen", "harmonic"} of SemanticScores.by_class(), for held-out classes; zeros if empty."""
    seen_mean = float(np.mean([value for name, value in ious.items() if name not in unseen] or [0.0]))
    unseen_mean = float(np.mean([value for name, value in ious.items() if name in unseen] or [0.0]))
    total = seen_mean + unseen_mean
    return {"seen": seen_mean, "unseen": unseen_mean, "harmonic": 2 * seen_mean * unseen_mean / total if total else 0.0}
