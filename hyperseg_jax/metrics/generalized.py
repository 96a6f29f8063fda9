"""gRefCOCO (Liu et al. 2023): expressions that name one thing, several, or none."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.metrics.ciou_giou import overlap
from hyperseg_jax.metrics.sums import Sums, check_rules

PRECISIONS = (0.7, 0.8, 0.9)


class GeneralizedScores(Sums):
    """gIoU, cIoU, precision, and how well a missing target is told: N-acc over prompts without target, T-acc over the others.

    A prompt without target scores IoU 1 where it is answered with nothing; any other answer scores 0 and adds its pixels to
    the union. rules: "official" follows the paper, N-acc = TP / (TP + FN), T-acc = TN / (TN + FP). "released" repeats the
    evaluator of ReLA (commit a389648): TP / (TP + FN + 1) and TP / (TP + FP + 1).
    """

    sometimes = ("n_acc", "t_acc")

    # sums of one row: intersection, union, IoU, prompts, then TP, FN, TN, FP of "names nothing", then precise ones with target
    columns = 8 + len(PRECISIONS)
    within = ((0, 1), (2, 3), *((k, 3) for k in range(4, 8 + len(PRECISIONS))))
    counted = 3

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """prediction, target: bool [H, W]; empty where nothing was found or is there."""
        intersection, union = overlap(prediction, target)
        none, told_none = not target.any(), not prediction.any()
        value = float(told_none) if none else intersection / union
        precise = [not none and value >= least for least in PRECISIONS]
        self._add(
            "",
            intersection,
            union,
            value,
            1,
            none and told_none,
            none and not told_none,
            not none and not told_none,
            not none and told_none,
            *precise,
        )

    def compute(self) -> dict[str, float]:
        """{"giou", "ciou", "precision@0.7"..., "count"} and "n_acc", "t_acc" where there were prompts of their kind."""
        intersection, union, value, count, tp, fn, tn, fp, *precise = self._total().tolist()
        scores = {"giou": value / max(count, 1), "ciou": intersection / max(union, 1), "count": count}
        scores |= {f"precision@{least}": number / max(tn + fp, 1) for least, number in zip(PRECISIONS, precise, strict=True)}
        if self._options["rules"] == "released":
            return scores | {"n_acc": tp / (tp + fn + 1), "t_acc": tp / (tp + fp + 1)}
        if tp + fn:
            scores["n_acc"] = tp / (tp + fn)
        if tn + fp:
            scores["t_acc"] = tn / (tn + fp)
        return scores
