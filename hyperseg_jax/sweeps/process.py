"""The training of a trial as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hyperseg_jax.sweeps.trials import Trial

SINGLE_PROCESS = {"HYPERSEG_PROCESSES": "1"}  # a trial inside a job of Slurm or on a host of a pod does not look for others


class TrainingProcess:
    """A started training; its output goes to the trial's log. It is asked to stop when this process dies, however it dies."""

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
        with trial.open_log() as log:  # a session of its own: Ctrl-C reaches it through stop() alone
            self._process = subprocess.Popen(
                [*child_guard, *trial.command()],
                env={**os.environ, **SINGLE_PROCESS, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def request_stop(self) -> None:
        """It saves and ends."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self._process.wait()


@contextlib.contextmanager
def on_sigterm(handler: Callable[..., Any]) -> Iterator[None]:
    """SIGTERM ends a sweep in the way that Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
