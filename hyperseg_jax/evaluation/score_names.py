"""Names of validation scores: which ones a task can have, and which one stands for the others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.scoring import BY_TASK, SCORINGS


def headlines() -> tuple[str, ...]:
    """The headline scores of all tasks that validation scores."""
    return tuple(dict.fromkeys(SCORINGS[name].headline for name in BY_TASK.values()))


def validation_scores(kind: str = "") -> tuple[str, ...]:
    """The scores that validation can give prompts of this kind ("referring"), those of all kinds where none is named; none for
    a kind that validation does not score."""
    asked = [name for one, name in BY_TASK.items() if not kind or one == kind]
    return tuple(dict.fromkeys(score for name in asked for score in SCORINGS[name].new("official").names()))


def prompt_kind(records: Sequence[Any]) -> str:
    """The kind of the prompts of some validation records, "" where none of them can be read."""
    for k in range(len(records)):
        try:
            return str(records[k].prompts[0].task)
        except BaseException as error:
            record_errors.reason(error)  # raises again what is no fault of a record
    return ""


def check_score(field: str, name: str, known: Sequence[str]) -> None:
    """UserError, naming `field` and the closest name, unless `name` is a known score or that of a group of one
    ("miou/point")."""
    if name in known or name.partition("/")[0] in known:
        return
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if not known:
        raise UserError(f"{field}: this task is not scored in validation; choose another task, or train/loss")
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"{field}: no score {name!r}; {hint}Known are {', '.join(known)}")


def check_best(best: str, tasks: Mapping[str, Any]) -> None:
    """UserError unless `best`, the field train.best, is empty or TASK/SCORE with a score of that task's validation. tasks: of
    data.sources.build."""
    if not best:
        return
    task, _, name = best.partition("/")
    records = tasks[task].val if task in tasks else None
    if records is None:
        scored = ", ".join(one for one, held in tasks.items() if held.val is not None)
        fix = (
            f"give TASK/SCORE with one of the tasks {scored}"
            if scored
            else "no task has a val block; give one, or leave it empty"
        )
        raise UserError(f"train.best = {best!r}: {fix}")
    if not (kind := prompt_kind(records)):
        raise UserError(f"train.best = {best!r}: no validation record of {task} can be read; check data.tasks.{task}.val")
    check_score(f"train.best = {best!r}", name, validation_scores(kind))
