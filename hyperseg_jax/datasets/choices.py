"""Formats multiple-choice questions as LLaVA-1.5 does for MMBench and ScienceQA; related systems use the same format."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
REQUEST = "\nAnswer with the option's letter from the given choices directly."


def format_question(question: str, choices: Sequence[str], hint: str = "") -> str:
    """Returns the hint (if any), the question, one line per choice with its letter, and the request for a letter."""
    lines = [hint] if hint else []
    lines += [question, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))]
    return "\n".join(lines) + REQUEST
