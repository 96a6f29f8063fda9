"""gRefCOCO (Liu et al. 2023): expressions with one, several or no targets."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.metrics.ciou_giou import count_overlap
from hyperseg_jax.metrics.sums import Sums, check_rules

PRECISIONS = (0.7, 0.8, 0.9)


class GeneralizedScores(Sums):
    """gIoU, cIoU, precision, and no-target accuracies: N-acc over prompts without target, T-acc over the others.

    For a prompt without target, an empty prediction scores IoU 1; any other scores 0 and adds its pixels to the union.
    rules: "official" follows the paper, N-acc = TP / (TP + FN), T-acc = TN / (TN + FP). "released" reproduces the evaluator
    of ReLA (commit a389648): TP / (TP + FN + 1) and TP / (TP + FP + 1).
    """

    optional_scores = ("n_acc", "t_acc")

    # sums of one row: intersection, union, IoU, prompts, TP, FN, TN, FP of "no target", prompts per precision
    columns = 8 + len(PRECISIONS)
    bounds = ((0, 1), (2, 3), *((k, 3) for k in range(4, 8 + len(PRECISIONS))))
    count_column = 3
    fractional = (2,)
    update_columns = (3,)

    def _is_valid(self, row: np.ndarray) -> bool:
        """Also checks that every prompt is of one kind, and that no more prompts pass a threshold than have a target."""
        return super()._is_valid(row) and row[3] == row[4:8].sum() and bool((row[8:] <= row[6:8].sum()).all())

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Adds one prompt. prediction, target: bool [H, W]; empty if there is no prediction or target."""
        intersection, union = count_overlap(prediction, target)
        no_target, predicted_none = not target.any(), not prediction.any()
        value = float(predicted_none) if no_target else intersection / union
        passed = [not no_target and value >= threshold for threshold in PRECISIONS]
        self._add(
            "",
            intersection,
            union,
            value,
            1,
            no_target and predicted_none,
            no_target and not predicted_none,
            not no_target and not predicted_none,
            not no_target and predicted_none,
            *passed,
        )

    def compute(self) -> dict[str, float]:
        """Returns {"giou", "ciou", "precision@0.7"..., "count"}, and "n_acc", "t_acc" if there were prompts of their kind."""
        intersection, union, value, count, tp, fn, tn, fp, *passed = self._total().tolist()
        scores = {"giou": value / max(count, 1), "ciou": intersection / max(union, 1), "count": count}
        scores |= {
            f"precision@{threshold}": number / max(tn + fp, 1) for threshold, number in zip(PRECISIONS, passed, strict=True)
        }
        if self._options["rules"] == "released":
            return scores | {"n_acc": tp / (tp + fn + 1), "t_acc": tp / (tp + fp + 1)}
        if tp + fn:
            scores["n_acc"] = tp / (tp + fn)
        if tn + fp:
            scores["t_acc"] = tn / (tn + fp)
        return scores
