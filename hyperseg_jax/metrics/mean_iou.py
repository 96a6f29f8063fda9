"""Mean IoU of semantic segmentation, as mmsegmentation and IFSeg count it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.sums import Sums


class SemanticScores(Sums):
    """IoU and accuracy of each class from pixel counts over all images. A class that is neither labelled nor predicted has no
    IoU; one that is predicted but never labelled has IoU 0."""

    # sums of each class: intersection, labelled pixels, predicted pixels
    columns = 3
    within = ((0, 1), (0, 2))

    def update(
        self, prediction: np.ndarray, target: np.ndarray, classes: Sequence[str], ignore: np.ndarray | None = None
    ) -> None:
        """prediction, target: int [H, W], indices into classes. ignore: bool [H, W]."""
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape; resize the prediction")
        counted = np.ones(target.shape, bool) if ignore is None else ~ignore
        ours, theirs, count = prediction[counted], target[counted], len(classes)
        parts = [np.bincount(part, minlength=count) for part in (ours[ours == theirs], theirs, ours)]
        if any(len(part) > count for part in parts):
            raise ValueError(f"labels up to {max(ours.max(), theirs.max())} of {count} classes; ignore what has no class")
        for k in np.flatnonzero(parts[1] + parts[2]).tolist():
            self._add(classes[k], *(part[k] for part in parts))

    def by_class(self) -> dict[str, float]:
        """IoU of every class that was labelled or predicted."""
        return {name: float(row[0] / (row[1] + row[2] - row[0])) for name, row in sorted(self._sums.items())}

    def compute(self) -> dict[str, float]:
        """{"miou", "macc" (mean recall over labelled classes), "aacc" (share of right pixels), "classes"}; zeros for none."""
        ious, total = self.by_class(), self._total()
        recalls = [row[0] / row[1] for row in self._sums.values() if row[1]]
        return {
            "miou": float(np.mean([*ious.values()] or [0.0])),
            "macc": float(np.mean(recalls or [0.0])),
            "aacc": float(total[0] / max(total[2], 1)),
            "classes": float(len(ious)),
        }


def harmonic_mean(ious: dict[str, float], unseen: Sequence[str]) -> dict[str, float]:
    """{"seen", "unseen", "harmonic"} of SemanticScores.by_class(), for classes held back from training; zeros for none."""
    seen = float(np.mean([value for name, value in ious.items() if name not in unseen] or [0.0]))
    held_back = float(np.mean([value for name, value in ious.items() if name in unseen] or [0.0]))
    both = seen + held_back
    return {"seen": seen, "unseen": held_back, "harmonic": 2 * seen * held_back / both if both else 0.0}
