"""MMBench (Liu et al. 2023): multiple choice, each question asked once for every rotation of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperseg_jax.metrics.sums import Sums

_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SPLIT = "\n"  # between category and question in the names of rows


def choose(text: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer picks: the one letter among its last five words, else the one whose text it quotes.

    options: {"A": "a cat", ...}. None where neither rule tells; the benchmark then asks a language model, we count it wrong.
    """
    words = text.translate(_SIGNS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return letters[0]
    spoken = text.lower()
    quoted = [letter for letter, option in options.items() if option.lower() in spoken]
    return quoted[0] if not letters and len(quoted) == 1 else None


class MultipleChoiceScores(Sums):
    """accuracy: the share of questions whose every rotation is answered rightly (circular evaluation). plain: the share of all
    single answers that are right."""

    # sums of each question, named by category and number: right answers, answers
    columns = 2
    within = ((0, 1),)
    counted = 1

    def update(self, answer: str, truth: str, options: Mapping[str, str], question: Any, group: str = "") -> None:
        """One rotation. truth: its letter. question: what its rotations have in common (in MMBench, index modulo 1e6)."""
        self._add(f"{group}{_SPLIT}{question}", choose(answer, options) == truth, 1)

    def compute(self) -> dict[str, float]:
        """{"accuracy", "plain", "count" (of questions)} and "accuracy/<group>"; zeros for none."""
        total = self._total()
        groups: dict[str, list[bool]] = {}
        for name, (right, asked) in self._sums.items():
            groups.setdefault(name.split(_SPLIT)[0], []).append(bool(right == asked))
        passed, count = sum(map(sum, groups.values())), len(self._sums)
        scores = {"accuracy": passed / max(count, 1), "plain": float(total[0] / max(total[1], 1)), "count": float(count)}
        return scores | {f"accuracy/{name}": sum(right) / len(right) for name, right in sorted(groups.items()) if name}
