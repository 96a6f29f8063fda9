"""Time accounting of a run, and its goodput: the share of time spent on training steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax

# categories of run time, in the order they are reported
SHARES = {
    "start": "from the command to the first step: devices, data, parameters or checkpoint",
    "compile": "tracing and compiling the programs, and the first step of each",
    "data": "waiting for a batch",
    "step": "training: dispatching steps and waiting for their results",
    "evaluation": "validation, and writing the model",
    "checkpoint": "waiting for a save to start, or to finish at the end of the run",
    "lost": "steps after the last checkpoint of a killed run, which are repeated",
}


MOST_SECONDS = 1e12
"""Maximum of each category in logs and checkpoints, 30,000 years. `Clock.read` returns at most as many, so that each checkpoint
can be read again."""


def is_seconds(value: object) -> bool:
    """Returns whether a value of a log or checkpoint, which are untrusted, can be the seconds of a category."""
    return type(value) in (int, float) and 0 <= value <= MOST_SECONDS  # type: ignore[operator]


class Clock:
    """Counts the seconds of a run by category, across restarts. Every second counts in exactly one category; those before the
    first `begin` count as "start"."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(SHARES, 0.0)
        self._since, self._share = time.monotonic(), "start"

    def resume(self, before: Mapping[str, float], lost: float) -> None:
        """Continues the counts of the run that is resumed. before: its seconds by category at the checkpoint. lost: its seconds
        after the checkpoint, which count as "lost"."""
        for category, seconds in before.items():
            self._seconds[category] += seconds
        self._seconds["lost"] += lost

    def begin(self, category: str, *, after: Any = None) -> None:
        """Counts time in this category from now on. after: arrays to wait for first, because a step is dispatched long before
        the device has finished it. The waiting time counts in the previous category."""
        jax.block_until_ready(after)
        now = time.monotonic()
        self._seconds[self._share] += now - self._since
        self._since, self._share = now, category

    def read(self) -> dict[str, float]:
        """Returns the seconds of each category so far."""
        self.begin(self._share)
        return {category: min(round(seconds, 3), MOST_SECONDS) for category, seconds in self._seconds.items()}


def goodput(seconds: Mapping[str, float]) -> float:
    """Returns the share of all time that was spent on training steps."""
    return seconds["step"] / max(sum(seconds.values()), 1e-9)


def summary(seconds: Mapping[str, float]) -> str:
    """Returns a line such as "goodput 91.2 %  (step 91.2  data 1.0 ...)" in percent. Omits categories below 0.1 %."""
    total = max(sum(seconds.values()), 1e-9)
    shares = "  ".join(f"{category} {100 * value / total:.1f}" for category, value in seconds.items() if value > total / 1000)
    return f"goodput {100 * goodput(seconds):.1f} %  ({shares})"
