"""How published data code writes the sentences of its data sets as one expression."""

from __future__ import annotations

from collections.abc import Iterable


def join_sentences(sentences: Iterable[str]) -> str:
    """The sentences of one RefCOCO record as one expression: " {sentence}." each, stripped."""
    return "".join(f" {sentence}." for sentence in sentences).strip()


def video_expression(text: str) -> str:
    """An expression of ReVOS without its "(s)"."""
    return text.replace("(s)", "").strip()
