"""Errors in dataset files: raised immediately by readers, or collected while `data check` runs."""

from __future__ import annotations

import contextlib
import contextvars
import pathlib
from collections.abc import Iterator
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import one_line

KINDS = ("missing file", "unreadable image", "wrong size", "bad mask", "bad record")
MESSAGES = 10_000


class Problem(UserError):
    """An error in a dataset file. kind: one of KINDS, by which errors are counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(one_line(message))
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return Problem, (self.kind, str(self))


class ProblemCollector:
    """Collects the problems that readers report inside `collecting_problems`.

    problems: message -> kind of the first MESSAGES distinct problems. counts: number of distinct problems by kind.
    sizes: (height, width) of the images that were read.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.sizes: dict[pathlib.Path, tuple[int, int]] = {}

    def add(self, kind: str, message: str) -> None:
        message = one_line(message)
        if message not in self.problems:
            self.counts[kind] += 1
            if len(self.problems) < MESSAGES:
                self.problems[message] = kind


_collected: contextvars.ContextVar[ProblemCollector | None] = contextvars.ContextVar("collected", default=None)
_problem_reported: contextvars.ContextVar[bool] = contextvars.ContextVar("problem_reported", default=False)


def active_collector() -> ProblemCollector | None:
    """Returns the active collector; None if problems are raised."""
    return _collected.get()


def has_reported_problem() -> bool:
    """Returns whether a problem was reported inside the current `collecting_problems` block, so that its consequences need not
    be reported."""
    return _problem_reported.get()


@contextlib.contextmanager
def collecting_problems(collector: ProblemCollector) -> Iterator[None]:
    """Inside this context, readers report problems to the collector and continue with an empty mask or image. Each image is
    decoded only once."""
    token, before = _collected.set(collector), _problem_reported.set(False)
    try:
        yield
    finally:
        _problem_reported.reset(before)
        _collected.reset(token)


def note_problem(kind: str, message: str) -> None:
    """During a check (inside `collecting_problems`), records a problem of a record that can be read: one that can be used for
    training, but not scored (an evaluation ends with a message at such a record), or one that is probably a mistake. Does
    nothing otherwise."""
    collector = active_collector()
    if collector is not None:
        collector.add(kind, message)


def report_problem(kind: str, message: str) -> None:
    """Raises a Problem. Inside `collecting_problems`, records it instead, and the caller continues with an empty value."""
    collector = active_collector()
    if collector is None:
        raise Problem(kind, message)
    _problem_reported.set(True)
    collector.add(kind, message)
