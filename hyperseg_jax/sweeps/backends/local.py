"""The local backend: a queue on this machine that runs one trial on each share of the devices."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from hyperseg_jax.sweeps.devices import Share
from hyperseg_jax.sweeps.process import TrainingProcess, on_sigterm
from hyperseg_jax.sweeps.trials import DONE, Trial, classify_exit

POLL_SECONDS = 0.2


def run(trials: Sequence[Trial], shares: Sequence[Share], *, log: Callable[[str], None]) -> None:
    """Runs all unfinished trials; interrupted ones resume from their checkpoints.

    On Ctrl-C or SIGTERM, running trials save and stop, and KeyboardInterrupt is raised. A failed trial does not stop the
    others; its record has the reason.
    """
    waiting = [trial for trial in trials if trial.status() not in DONE]
    free = list(shares)
    running: list[tuple[Trial, TrainingProcess, Share]] = []
    ended = len(trials) - len(waiting)
    if ended:
        log(f"{ended} of {len(trials)} trials are already done")
    with on_sigterm(signal.default_int_handler):
        try:
            while waiting or running:
                while waiting and free:
                    trial, share = waiting.pop(0), free.pop(0)
                    trial.set_status("running")
                    running.append((trial, TrainingProcess(trial, environment=share.environment, cores=share.cores), share))
                    log(f"started {trial.name}")
                for entry in list(running):
                    trial, training, share = entry
                    if (code := training.poll()) is not None:
                        status, reason = classify_exit(trial, code)
                        trial.set_status(status, reason)
                        running.remove(entry)
                        free.append(share)
                        ended += 1
                        log(f"{status} {trial.name} ({ended} of {len(trials)}){': ' + reason if reason else ''}")
                time.sleep(POLL_SECONDS)
        finally:
            _stop_trials(running, log)


def _stop_trials(running: Sequence[tuple[Trial, TrainingProcess, Share]], log: Callable[[str], None]) -> None:
    """Stops running trials, waits until they have saved, and records their status."""
    if running:
        log(f"stopping: waiting for {len(running)} trials to save")
    for _, training, _ in running:
        training.request_stop()
    for trial, training, _ in running:
        training.wait()
        finished = trial.is_complete()
        trial.set_status("finished" if finished else "interrupted", "" if finished else "the sweep was stopped")
