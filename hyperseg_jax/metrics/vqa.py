"""VQA accuracy (Antol et al. 2015): min(number of annotators who gave the answer / 3, 1), after normalization.

The published normalization (https://visualqa.org/evaluation.html): lower case, no periods outside decimals, digits for number
words, no articles, contractions with apostrophe, and a space for all punctuation except apostrophes and colons."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hyperseg_jax.metrics.sums import Sums, check_rules

ARTICLES = ("a", "an", "the")
DIGITS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "let's",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "she's",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
# The tool does not change these, which are words without the apostrophe too.
_WORDS = {"lets", "shes"}
CONTRACTIONS = {
    word[:k] + word[k + 1 :]: word
    for word in _CONTRACTED
    for k, sign in enumerate(word)
    if sign == "'"
    if word[:k] + word[k + 1 :] not in _WORDS
} | {"somebody'd": "somebodyd"}
"""Contractions by their spelling without one apostrophe."""
_PERIOD, _THOUSANDS = re.compile(r"\.(?!\d)"), re.compile(r"\d,\d")


def remove_punctuation(text: str) -> str:
    """Removes punctuation next to a space, and all punctuation if a number contains a comma; replaces the rest by a space."""
    cleaned = text
    for sign in PUNCTUATION:
        is_removed = f"{sign} " in text or f" {sign}" in text or _THOUSANDS.search(text)
        cleaned = cleaned.replace(sign, "" if is_removed else " ")
    return _PERIOD.sub("", cleaned)


def normalize_words(text: str) -> str:
    """Lower-cases, replaces number words by digits, removes articles, and adds apostrophes to contractions."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_answer(text: str) -> str:
    """Normalizes an answer for comparison."""
    return normalize_words(remove_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def accuracy(answer: str, truths: Sequence[str], rules: str = "official") -> float:
    """Returns the mean of min(number of truths equal to the answer / 3, 1) over all leave-one-out sets of truths.

    rules: "official" normalizes answer and truths. "released": as in the tool, truths only lose their punctuation, and only if
    they are not all equal.
    """
    if rules == "official":
        truths = [normalize_answer(truth) for truth in truths]
    elif len(set(truths)) > 1:
        truths = [remove_punctuation(truth) for truth in truths]
    normalized = normalize_answer(answer)
    hits = [truth == normalized for truth in truths]
    total = sum(hits)
    return sum(min((total - hit) / 3, 1) for hit in hits) / len(hits)


class VqaScores(Sums):
    """Mean accuracy over questions, overall and by type of answer ("yes/no", "number", "other")."""

    # sums of each group: accuracy, questions
    columns = 2
    bounds = ((0, 1),)
    count_column = 1
    fractional = (0,)
    update_columns = (1,)

    def __init__(self, rules: str = "official") -> None:
        super().__init__(rules=check_rules(rules))

    def update(self, answer: str, truths: Sequence[str], group: str = "") -> None:
        """Adds one question. truths: the answers of annotators, ten in VQAv2."""
        if len(truths) < 2:
            raise ValueError(f"{len(truths)} true answers; leave-one-out needs at least 2")
        self._add(group, accuracy(answer, truths, self._options["rules"]), 1)

    def compute(self) -> dict[str, float]:
        """Returns {"accuracy", "count"} and "accuracy/<group>"; zeros if empty."""
        total = self._total()
        scores = {"accuracy": float(total[0] / max(total[1], 1)), "count": float(total[1])}
        return scores | {f"accuracy/{name}": float(row[0] / row[1]) for name, row in sorted(self._sums.items()) if name}
