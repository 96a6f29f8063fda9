"""Text normalization of referring expressions, as in published data pipelines."""

from __future__ import annotations

from collections.abc import Iterable


def join_sentences(sentences: Iterable[str]) -> str:
    """Joins the sentences of one RefCOCO record into one expression: " {sentence}." each, stripped."""
    return "".join(f" {sentence}." for sentence in sentences).strip()


def clean_video_expression(text: str) -> str:
    """Removes "(s)" from an expression of ReVOS."""
    return text.replace("(s)", "").strip()
