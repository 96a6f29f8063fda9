"""Runs the training of a trial as a subprocess."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hyperseg_jax.sweeps.trials import Trial

SINGLE_PROCESS = {"HYPERSEG_PROCESSES": "1"}  # keeps a trial in a Slurm job or on a pod host from joining other processes


class TrainingProcess:
    """A training process, started on creation, that writes to the log of the trial. It gets SIGTERM if the process that started
    it dies for any reason."""

    def __init__(self, trial: Trial, *, environment: Mapping[str, str] = {}, cores: tuple[int, ...] = ()) -> None:
        trial.folder.mkdir(parents=True, exist_ok=True)
        child_guard = (
            sys.executable,
            "-m",
            "hyperseg_jax.sweeps.child_guard",
            str(trial.lock),
            ",".join(map(str, cores)),
            str(os.getpid()),
        )
        with trial.open_log() as log:  # in a new session, so that Ctrl-C does not reach it directly
            self._process = subprocess.Popen(
                [*child_guard, *trial.command()],
                env={**os.environ, **SINGLE_PROCESS, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        return self._process.poll()

    def request_stop(self) -> None:
        """Sends SIGTERM, on which training saves and exits; does not wait for it."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for the process to exit and returns its exit code."""
        return self._process.wait()


@contextlib.contextmanager
def on_sigterm(handler: Callable[..., Any]) -> Iterator[None]:
    """Replaces the handler of SIGTERM during the body, so that the signal ends a sweep like Ctrl-C."""
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
