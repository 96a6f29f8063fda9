"""When a run is told to stop: by Ctrl-C or SIGTERM, to one process or to one of many."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax

from hyperseg_jax.parallel import hosts


class Stop:
    """Whether this process was told to."""

    told = False

    def asked(self, step: int) -> bool:
        """Whether the run ends after this step; the same on all processes, which all ask at every step."""
        return self.told or hosts.reached_stop(step)


@contextlib.contextmanager
def interruptible() -> Iterator[Stop]:
    """Turns the first Ctrl-C or SIGTERM into a request to save and stop; a second one acts as usual.

    In a run of many processes SIGTERM is left to JAX, which brings it to all of them, and Ctrl-C becomes a SIGTERM.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        stop.told = True
        signal.signal(number, before[number])

    def pass_on(number: int, _: Any) -> None:
        signal.signal(number, before[number])
        os.kill(os.getpid(), signal.SIGTERM)

    many = jax.process_count() > 1
    handlers: dict[int, Any] = {signal.SIGINT: pass_on} if many else {signal.SIGINT: ask, signal.SIGTERM: ask}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread: leave signals to whoever owns it
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
