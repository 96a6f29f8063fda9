"""Names of validation scores: the scores of each task, and its headline score."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.scoring import BY_TASK, SCORINGS, kind_of_example, scoring_by_task
from hyperseg_jax.results.answers import Answers


def headline_scores() -> tuple[str, ...]:
    """Returns the headline scores of all kinds of prompts that validation scores."""
    return tuple(dict.fromkeys(SCORINGS[name].headline for name in BY_TASK.values()))


def validation_scores(answers: Answers, kind: str = "") -> tuple[str, ...]:
    """Returns the validation scores for prompts of this kind ("referring"), or of all kinds by default. Empty for a kind that
    validation does not score. answers: of the system."""
    scorings = [name for task, name in scoring_by_task(answers).items() if not kind or task == kind]
    return tuple(dict.fromkeys(score for name in scorings for score in SCORINGS[name].new("official").names()))


def prompt_kind(records: Sequence[Any], answers: Answers) -> str:
    """Returns the kind (scoring.kind_of_example) of the first readable validation record, "" if none can be read. answers: of
    the system."""
    for k in range(len(records)):
        try:
            return kind_of_example(records[k], scoring_by_task(answers))
        except BaseException as error:
            record_errors.error_message(error)  # raises again what is not an error of a record
    return ""


def check_score(field: str, name: str, known: Sequence[str]) -> None:
    """Raises UserError, with `field` and the closest known name, unless `name` is a known score or one of its groups
    ("miou/point")."""
    if name in known or name.partition("/")[0] in known:
        return
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if not known:
        raise UserError(f"{field}: this task is not scored in validation; choose another task, or train/loss")
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"{field}: no score {name!r}; {hint}use one of {', '.join(known)}")


def check_best_field(best: str, tasks: Mapping[str, Any], answers: Answers) -> None:
    """Raises UserError unless train.best is empty or TASK/SCORE with a validation score of this task. best: value of the field.
    tasks: result of data.sources.build_tasks. answers: of the system."""
    if not best:
        return
    task, _, name = best.partition("/")
    records = tasks[task].val if task in tasks else None
    if records is None:
        scored = ", ".join(other for other, candidate in tasks.items() if candidate.val is not None)
        fix = (
            f"give TASK/SCORE with one of the tasks {scored}"
            if scored
            else "no task has a val block; add one, or leave train.best empty"
        )
        raise UserError(f"train.best = {best!r}: {fix}")
    if not (kind := prompt_kind(records, answers)):
        raise UserError(f"train.best = {best!r}: no validation record of {task} can be read; check data.tasks.{task}.val")
    if not (known := validation_scores(answers, kind)):
        raise UserError(
            f"train.best = {best!r}: validation does not score this task; choose another, or leave train.best empty"
        )
    check_score(f"train.best = {best!r}", name, known)
