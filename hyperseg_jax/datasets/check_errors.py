"""What is wrong with files: one line that ends a reader, or, while a check collects, one of many."""

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
    """A fault of a file. kind: one of KINDS, what problems are counted by."""

    def __init__(self, kind: str, message: str):
        super().__init__(one_line(message))
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return Problem, (self.kind, str(self))


class ProblemCollector:
    """What readers met while `collecting`.

    problems: message -> kind, each once, the first MESSAGES of them. counts: of all, by kind.
    sizes: (height, width) of the images that were read.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.sizes: dict[pathlib.Path, tuple[int, int]] = {}

    def note(self, kind: str, message: str) -> None:
        message = one_line(message)
        if message not in self.problems:
            self.counts[kind] += 1
            if len(self.problems) < MESSAGES:
                self.problems[message] = kind


_collected: contextvars.ContextVar[ProblemCollector | None] = contextvars.ContextVar("collected", default=None)
_complained: contextvars.ContextVar[bool] = contextvars.ContextVar("problem_reported", default=False)


def active_collector() -> ProblemCollector | None:
    """Where problems are collected at the moment; None while the first one ends a reader."""
    return _collected.get()


def problem_reported() -> bool:
    """Whether a problem has been noted since `collecting` began, so that what follows from it need not be."""
    return _complained.get()


@contextlib.contextmanager
def collecting_problems(into: ProblemCollector) -> Iterator[None]:
    """Readers note a problem and go on, with an empty mask or image in its place. An image is decoded once."""
    token, before = _collected.set(into), _complained.set(False)
    try:
        yield
    finally:
        _complained.reset(before)
        _collected.reset(token)


def report_problem(kind: str, message: str) -> None:
    """Raises a Problem; while `collecting`, notes it, and the caller goes on with something empty."""
    into = active_collector()
    if into is None:
        raise Problem(kind, message)
    _complained.set(True)
    into.note(kind, message)
