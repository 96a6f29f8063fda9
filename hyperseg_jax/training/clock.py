"""Where the time of a run goes, and how much of it trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax

# shares of goodput, in the order they are told
SHARES = {
    "start": "from the command to the first step: devices, data, parameters or their checkpoint",
    "compile": "tracing and compiling the programs, and the first step of each",
    "data": "waiting for a batch",
    "step": "training: dispatched steps and waiting for their results",
    "evaluation": "scores on validation records, and writing the model",
    "checkpoint": "waiting for a save to begin, or to end where the run does",
    "lost": "steps that a kill threw away, done again since the checkpoint that the run went on from",
}


class Clock:
    """Seconds of a run by share, through stops and restarts; every second counts once. It begins with "start"."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(SHARES, 0.0)
        self._since, self._share = time.monotonic(), "start"

    def resume(self, before: Mapping[str, float], lost: float) -> None:
        """Adds what the run took up to its checkpoint, and the seconds after it that are done again."""
        for share, seconds in before.items():
            self._seconds[share] += seconds
        self._seconds["lost"] += lost

    def begin(self, share: str, *, after: Any = None) -> None:
        """From now on time counts for this share. after: arrays that are waited for first, which is time of the share before:
        a step is dispatched long before the device has done it."""
        jax.block_until_ready(after)
        now = time.monotonic()
        self._seconds[self._share] += now - self._since
        self._since, self._share = now, share

    def read(self) -> dict[str, float]:
        """Seconds by share until now."""
        self.begin(self._share)
        return {share: round(seconds, 3) for share, seconds in self._seconds.items()}


def goodput(seconds: Mapping[str, float]) -> float:
    """The share of all time that went into steps which counted."""
    return seconds["step"] / max(sum(seconds.values()), 1e-9)


def told(seconds: Mapping[str, float]) -> str:
    """One line: "goodput 91.2 %  step 91.2  data 1.0 ..." in percent, what is below a tenth left out."""
    total = max(sum(seconds.values()), 1e-9)
    shares = "  ".join(f"{share} {100 * value / total:.1f}" for share, value in seconds.items() if value > total / 1000)
    return f"goodput {100 * goodput(seconds):.1f} %  ({shares})"
