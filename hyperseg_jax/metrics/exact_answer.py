"""Short answers that are right or wrong as they stand (GQA, ScienceQA)."""

from __future__ import annotations

from hyperseg_jax.metrics.sums import Sums


def plain(text: str) -> str:
    """Lower case, without outer spaces and a closing period."""
    return text.strip().lower().removesuffix(".").strip()


class ExactScores(Sums):
    """The share of answers that equal the truth, whole and by group."""

    # sums of each group: right ones, questions
    columns = 2
    within = ((0, 1),)
    counted = 1

    def update(self, answer: str, truth: str, group: str = "") -> None:
        """One question."""
        self._add(group, plain(answer) == plain(truth), 1)

    def compute(self) -> dict[str, float]:
        """{"accuracy", "count"} and "accuracy/<group>"; zeros for none."""
        total = self._total()
        scores = {"accuracy": float(total[0] / max(total[1], 1)), "count": float(total[1])}
        return scores | {f"accuracy/{name}": float(row[0] / row[1]) for name, row in sorted(self._sums.items()) if name}
