"""A question with choices in words, as LLaVA-1.5 asks MMBench and ScienceQA; systems of its family ask alike."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
REQUEST = "\nAnswer with the option's letter from the given choices directly."


def format_question(question: str, choices: Sequence[str], hint: str = "") -> str:
    """[hint, on its own line] question, a line for each choice behind its letter, and the request for a letter."""
    lines = [hint] if hint else []
    lines += [question, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))]
    return "\n".join(lines) + REQUEST
