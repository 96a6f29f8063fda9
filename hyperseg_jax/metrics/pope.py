"""POPE (Li et al. 2023): is there a ... in the image? Yes or no, for things picked at random, popular or adversarial."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums

NO = ("no", "not")


def says_yes(text: str) -> bool:
    """Whether an answer means yes: unless its first sentence has the word "no" or "not" (the benchmark's rule)."""
    words = text.split(".")[0].replace(",", "").lower().split()
    return not any(word in NO for word in words)


class PopeScores(Sums):
    """Accuracy, precision, recall, F1 and the share of yes, whole and by group ("random", "popular", "adversarial").

    The overall f1 is of all questions together; f1_mean is the mean of the groups', which papers give.
    """

    # sums of each group: yes that are right, yes that are wrong, no that are right, no that are wrong
    columns = 4

    def update(self, answer: str, truth: bool, group: str = "") -> None:
        """One question; truth: whether the thing is there."""
        yes = says_yes(answer)
        self._add(group, yes and truth, yes and not truth, not yes and not truth, not yes and truth)

    def compute(self) -> dict[str, float]:
        """{"accuracy", "precision", "recall", "f1", "yes_share", "f1_mean", "count"} and "f1/<group>", "accuracy/<group>"."""
        total = self._total()
        groups = {name: _scores(*row.tolist()) for name, row in sorted(self._sums.items())}
        scores = _scores(*total.tolist()) | {"count": float(total.sum())}
        scores["f1_mean"] = sum(group["f1"] for group in groups.values()) / max(len(groups), 1)
        return scores | {f"{key}/{name}": group[key] for name, group in groups.items() if name for key in ("accuracy", "f1")}


def _scores(right_yes: float, wrong_yes: float, right_no: float, wrong_no: float) -> dict[str, float]:
    count = right_yes + wrong_yes + right_no + wrong_no
    precision, recall = right_yes / max(right_yes + wrong_yes, 1), right_yes / max(right_yes + wrong_no, 1)
    return {
        "accuracy": (right_yes + right_no) / max(count, 1),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_share": (right_yes + wrong_yes) / max(count, 1),
    }
