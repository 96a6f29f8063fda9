"""Keeps the host from running far ahead of the devices, whose memory would fill with batches of steps that have not run."""

from __future__ import annotations

import collections
from typing import Any

import jax

STEPS_AHEAD = 2


class StepsInFlight:
    """Waits until all but the newest STEPS_AHEAD dispatched steps have ended."""

    def __init__(self) -> None:
        self._outputs = collections.deque[Any]()

    def add(self, outputs: Any) -> None:
        """Adds a dispatched step. outputs: some of its arrays."""
        self._outputs.append(outputs)
        if len(self._outputs) > STEPS_AHEAD:
            jax.block_until_ready(self._outputs.popleft())
