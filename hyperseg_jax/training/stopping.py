"""Graceful stopping on Ctrl-C or SIGTERM, in runs of one or many processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax

from hyperseg_jax.parallel import hosts


class Stop:
    """The request to stop after the current step, of this process."""

    requested = False

    def should_stop(self, step: int) -> bool:
        """Returns whether the run stops after this step, the same on all processes. All of them must call it at every step."""
        return self.requested or hosts.reached_stop(step)


@contextlib.contextmanager
def interruptible() -> Iterator[Stop]:
    """A context manager that turns the first Ctrl-C or SIGTERM into a request to save and stop; a second one acts as usual.

    With several processes, JAX handles SIGTERM and passes it on to all of them; Ctrl-C is turned into SIGTERM.
    """
    stop = Stop()
    previous: dict[int, Any] = {}

    def request_stop(number: int, _: Any) -> None:
        stop.requested = True
        signal.signal(number, previous[number])

    def send_sigterm(number: int, _: Any) -> None:
        signal.signal(number, previous[number])
        os.kill(os.getpid(), signal.SIGTERM)

    many = jax.process_count() > 1
    handlers: dict[int, Any] = (
        {signal.SIGINT: send_sigterm} if many else {signal.SIGINT: request_stop, signal.SIGTERM: request_stop}
    )
    try:
        for number, handler in handlers.items():
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread, which alone can set handlers
        previous.clear()
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
