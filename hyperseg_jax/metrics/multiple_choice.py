"""MMBench (Liu et al. 2023): multiple choice, where each question is repeated for every rotation of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperseg_jax.metrics.sums import Sums

_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SPLIT = "\n"  # between category and question in the names of rows


def choose_option(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the option that an answer selects: the only letter, among its last five words, else the only quoted option.

    options: {"A": "a cat", ...}. Returns None if neither rule applies; the benchmark then uses a language model, while here
    the answer is wrong.
    """
    words = text.translate(_SIGNS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return letters[0]
    lowered = text.lower()
    quoted = [letter for letter, option in options.items() if option.lower() in lowered]
    return quoted[0] if not letters and len(quoted) == 1 else None


class MultipleChoiceScores(Sums):
    """accuracy: the share of questions with correct answers to all rotations (circular evaluation). plain: the share of
    correct answers."""

    # sums of each question, named by category and number: correct answers, answers
    columns = 2
    bounds = ((0, 1),)
    count_column = 1
    update_columns = (1,)

    def update(self, answer: str, truth: str, options: Mapping[str, str], question: Any, group: str = "") -> None:
        """Adds one rotation. truth: its letter. question: id shared by all rotations (in MMBench, index modulo 1e6)."""
        self._add(f"{group}{_SPLIT}{question}", choose_option(answer, options) == truth, 1)

    def compute(self) -> dict[str, float]:
        """Returns {"accuracy", "plain", "count" (of questions)} and "accuracy/<group>"; zeros if empty."""
        total = self._total()
        groups: dict[str, list[bool]] = {}
        for name, (correct, total_answers) in self._sums.items():
            groups.setdefault(name.split(_SPLIT)[0], []).append(bool(correct == total_answers))
        passed, count = sum(map(sum, groups.values())), len(self._sums)
        scores = {"accuracy": passed / max(count, 1), "plain": float(total[0] / max(total[1], 1)), "count": float(count)}
        return scores | {f"accuracy/{name}": sum(correct) / len(correct) for name, correct in sorted(groups.items()) if name}
