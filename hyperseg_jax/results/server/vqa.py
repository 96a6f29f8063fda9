"""VQAv2: a JSON list of {question_id, answer}."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

from hyperseg_jax.atomic import write_text


def write(path: pathlib.Path, rows: Iterable[tuple[int, str]]) -> None:
    """Writes the answers. rows: (question id, answer) of every question of a split. Raises ValueError for duplicates."""
    answers = {}
    for question, answer in rows:
        if question in answers:
            raise ValueError(f"question {question} is answered twice")
        answers[question] = " ".join(answer.split())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([{"question_id": question, "answer": answer} for question, answer in answers.items()]))
