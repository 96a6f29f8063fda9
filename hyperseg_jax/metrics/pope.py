"""POPE (Li et al. 2023): yes/no questions about the presence of random, popular or adversarial objects."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums

NO = ("no", "not")


def is_yes(text: str) -> bool:
    """Returns whether an answer means yes: its first sentence has no word "no" or "not" (the benchmark's rule)."""
    words = text.split(".")[0].replace(",", "").lower().split()
    return not any(word in NO for word in words)


class PopeScores(Sums):
    """Accuracy, precision, recall, F1 and the share of yes answers, overall and by group ("random", "popular", "adversarial").

    The overall f1 is computed over all questions; f1_mean is the mean over the groups, which papers report.
    """

    # sums of each group: true yes, false yes, true no, false no
    columns = 4
    update_columns = (0, 1, 2, 3)

    def update(self, answer: str, truth: bool, group: str = "") -> None:
        """Adds one question. truth: whether the object is present."""
        yes = is_yes(answer)
        self._add(group, yes and truth, yes and not truth, not yes and not truth, not yes and truth)

    def compute(self) -> dict[str, float]:
        """Returns {"accuracy", "precision", "recall", "f1", "yes_share", "f1_mean", "count"}, also f1 and accuracy by group."""
        total = self._total()
        groups = {name: _scores_from_counts(*row.tolist()) for name, row in sorted(self._sums.items())}
        scores = _scores_from_counts(*total.tolist()) | {"count": float(total.sum())}
        scores["f1_mean"] = sum(group["f1"] for group in groups.values()) / max(len(groups), 1)
        return scores | {f"{key}/{name}": group[key] for name, group in groups.items() if name for key in ("accuracy", "f1")}


def _scores_from_counts(true_yes: float, false_yes: float, true_no: float, false_no: float) -> dict[str, float]:
    count = true_yes + false_yes + true_no + false_no
    precision, recall = true_yes / max(true_yes + false_yes, 1), true_yes / max(true_yes + false_no, 1)
    return {
        "accuracy": (true_yes + true_no) / max(count, 1),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_share": (true_yes + false_yes) / max(count, 1),
    }
