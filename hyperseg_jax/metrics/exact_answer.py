"""Exact-match accuracy of short answers (GQA, ScienceQA)."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums


def normalize_answer(text: str) -> str:
    """Lower-cases and strips an answer, without a final period."""
    return text.strip().lower().removesuffix(".").strip()


class ExactScores(Sums):
    """The share of correct answers, overall and by group."""

    # sums of each group: correct answers, questions
    columns = 2
    bounds = ((0, 1),)
    count_column = 1
    update_columns = (1,)

    def update(self, answer: str, truth: str, group: str = "") -> None:
        """Adds one question."""
        self._add(group, normalize_answer(answer) == normalize_answer(truth), 1)

    def compute(self) -> dict[str, float]:
        """Returns {"accuracy", "count"} and "accuracy/<group>"; zeros if empty."""
        total = self._total()
        scores = {"accuracy": float(total[0] / max(total[1], 1)), "count": float(total[1])}
        return scores | {f"accuracy/{name}": float(row[0] / row[1]) for name, row in sorted(self._sums.items()) if name}
