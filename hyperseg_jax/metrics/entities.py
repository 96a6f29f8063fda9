"""What a model finds in an image, apart from the quality of its masks: objects that it misses, repeats, or names wrongly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperseg_jax.metrics.sums import Sums


class EntityScores(Sums):
    """Scores of the segments of a class list. A prediction is matched with a target if their IoU is above 0.5, whatever their
    classes; ignored pixels do not count.

    missed: share of the targets without a match. duplicated: share of the predictions without a match of which more than half
    lies on a target that has one. class_accuracy: share of the matches with the right class. Of models that write names before
    the masks: name_precision, the share of the written names that are in the image; repeated_names, the share of those that
    are in the class list and were written before; name_recall, the share of the classes in the image that are written.
    """

    optional_scores = ("name_precision", "repeated_names", "name_recall")
    # targets, missed, predictions, duplicated, matches, right class, names, right names, repeated names, classes, named classes
    columns = 11
    bounds = ((1, 0), (3, 2), (4, 0), (4, 2), (5, 4), (7, 6), (8, 6), (10, 9))

    def update(
        self,
        predicted: np.ndarray,
        predicted_labels: Sequence[int],
        target: np.ndarray,
        target_labels: Sequence[int],
        ignore: np.ndarray | None = None,
        written: Sequence[int | None] | None = None,
    ) -> None:
        """Adds one image. predicted [P, H, W], target [N, H, W]: bool, with labels. ignore: bool [H, W]. written: labels of the
        names that the model wrote, None for names outside the class list; None if it writes none."""
        counted = np.ones(target.shape[1:], bool) if ignore is None else ~ignore
        ours, truth = ((masks & counted).reshape(len(masks), counted.size).astype(np.float32) for masks in (predicted, target))
        intersections, areas, target_areas = ours @ truth.T, ours.sum(1), truth.sum(1)
        matched = intersections > 0.5 * (areas[:, None] + target_areas - intersections)
        right = matched & (np.asarray(predicted_labels, int).reshape(-1, 1) == np.asarray(target_labels, int))
        found, seen = matched.any(0), target_areas > 0
        repeats = ~matched.any(1) & ((intersections * found).max(1, initial=0) > 0.5 * areas)
        names = list(written or ())
        listed = [label for label in names if label is not None]
        classes = (
            {label for label, area in zip(target_labels, target_areas, strict=True) if area} if written is not None else set()
        )
        self._add(
            "all",
            seen.sum(),
            (seen & ~found).sum(),
            len(predicted),
            repeats.sum(),
            matched.sum(),
            right.sum(),
            len(names),
            sum(label in classes for label in names),
            len(listed) - len(set(listed)),
            len(classes),
            len(classes & set(listed)),
        )

    def compute(self) -> dict[str, float]:
        targets, missed, predictions, duplicated, matches, right, names, right_names, repeated, classes, named = self._total()
        scores = {
            "missed": missed / max(targets, 1),
            "duplicated": duplicated / max(predictions, 1),
            "class_accuracy": right / max(matches, 1),
        }
        if classes:
            scores |= {"name_precision": right_names / max(names, 1), "repeated_names": repeated / max(names, 1)}
            scores["name_recall"] = named / classes
        return {name: float(value) for name, value in scores.items()}
