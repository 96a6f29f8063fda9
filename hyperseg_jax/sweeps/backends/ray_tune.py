"""Ray Tune as the engine: trials are packed on a cluster's devices, come back where a worker dies, and can be stopped early.

Ray's own record of an experiment is pickles, so it is never read back. A sweep goes on from the trials' records instead: what
is done tells Ray its scores again, which is all that ASHA remembers, and the rest goes on from its checkpoints.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps.devices import CPU_SHARE
from hyperseg_jax.sweeps.process import TrainingProcess, on_sigterm
from hyperseg_jax.sweeps.trials import DONE, Metric, Trial, outcome

try:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
except ImportError as error:
    raise UserError("--backend ray: Ray is not installed; pip install 'hyperseg-jax[sweep]'") from error

POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 2.0  # how long a worker is deaf to Ray
RETRIES = 3  # of a trial whose worker or training was killed
BAD_INPUT = 2  # the exit code of a UserError: trying again would not help


@dataclasses.dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934): at grace, grace * factor, grace * factor^2, ...
    steps a trial goes on only if its score is among the best 1 / factor of those that came there."""

    grace: int
    factor: float


def run(
    trials: Sequence[Trial],
    metric: Metric,
    out: pathlib.Path,
    *,
    per_trial: int | None,
    asha: Asha | None,
    log: Callable[[str], None],
) -> None:
    """Runs what is not done yet on the cluster of RAY_ADDRESS, or the one on this machine, or else one that is started here.

    out: where Ray writes its logs. per_trial: TPU chips, GPUs or cores of a trial, by what the cluster has.
    """
    os.environ.update(
        {
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a last report may come without a score
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_AIR_NEW_OUTPUT": "0",
        }
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints each failure as a page; StatusRecorder has a line
    started = not ray.is_initialized()
    if started:
        leave = {"RAY_kill_child_processes_on_worker_exit": "0"}  # a training saves when its worker ends
        ray.init(runtime_env={"env_vars": leave}, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    try:
        longest = max(trial.steps for trial in trials)
        scheduler = asha and ASHAScheduler(
            time_attr="step", max_t=longest, grace_period=asha.grace, reduction_factor=asha.factor, stop_last_trials=False
        )
        by_name = {trial.name: trial for trial in trials}
        watched = tune.with_parameters(TrialRunner, trials=by_name, metric=metric)
        tuner = tune.Tuner(
            tune.with_resources(watched, resources(per_trial)),
            param_space={"name": tune.grid_search(list(by_name))},
            tune_config=tune.TuneConfig(
                metric="score",
                mode=metric.mode,
                scheduler=scheduler or None,
                trial_dirname_creator=lambda trial: trial.config["name"],
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(out.absolute()),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the workdir has them
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[StatusRecorder(by_name, log)],
            ),
        )
        with on_sigterm(lambda *_: signal.raise_signal(signal.SIGINT)):  # at which Tune asks its trials to stop, and returns
            tuner.fit()
    finally:
        cut = [trial for trial in trials if trial.status() == "running"]
        for trial in cut:
            trial.set_status("interrupted", "the sweep was stopped")
        if started:
            ray.shutdown()
    if cut:
        raise KeyboardInterrupt


def resources(per_trial: int | None) -> dict[str, float]:
    """What a trial asks for. UserError where no node has as much."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = next((kind for kind in ("TPU", "GPU") if any(node.get(kind) for node in nodes)), "CPU")
    most = int(max(node.get(kind, 0) for node in nodes))
    size = per_trial or (min(CPU_SHARE, most) if kind == "CPU" else 1)
    if not 1 <= size <= most:
        raise UserError(f"--per-trial {size}: the largest node of the Ray cluster has {most} {kind}s; give 1 to {most}")
    return {kind: size} if kind == "CPU" else {kind: size, "CPU": 1}


class TrialRunner(tune.Trainable):
    """A trial's training, seen through its metrics.jsonl: an iteration is a score or a heartbeat, the last tells how it ended.

    After a kill it is restarted elsewhere: it waits for the old process to end (sweeps.child_guard), resumes from the
    checkpoints and reports all scores again; the scheduler ignores those that it knows.
    """

    def setup(self, config: dict[str, Any], trials: Mapping[str, Trial], metric: Metric) -> None:
        self.trial, self.metric = trials[config["name"]], metric
        self.training = None if self.trial.status() in DONE else TrainingProcess(self.trial)
        self.reported_step = 0

    def step(self) -> dict[str, Any]:
        until = time.monotonic() + HEARTBEAT_SECONDS
        while True:
            code = self.training.poll() if self.training else 0  # asked first, so that no score is missed
            for step, score in self.metric.scores(self.trial.lines()):
                if step > self.reported_step and (code is not None or step < self.trial.steps):
                    self.reported_step = step
                    return {"step": step, "score": score}
            if code is not None:
                return self._end(code)
            if time.monotonic() > until:
                return {"step": self.reported_step}
            time.sleep(POLL_SECONDS)

    def _end(self, code: int) -> dict[str, Any]:
        status, reason = outcome(self.trial, code) if self.training else (self.trial.status(), "")
        if status in DONE or code == BAD_INPUT:
            return {"step": self.reported_step, "status": status, "reason": reason, "done": True}
        raise RuntimeError(reason)  # killed: Ray tries again

    def cleanup(self) -> None:
        """Stopped early or given up: the training saves and ends."""
        if self.training:
            self.training.request_stop()
            self.training.wait()


class StatusRecorder(tune.Callback):
    """Writes what becomes of the trials, in the process that started the sweep."""

    def __init__(self, trials: Mapping[str, Trial], log: Callable[[str], None]) -> None:
        self.trials, self.log, self.ended = trials, log, 0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles it into its record, which nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        mine = self.trials[trial.config["name"]]
        if mine.status() not in DONE:
            mine.set_status("running")
            self.log(f"started {mine.name}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.log(f"killed, goes on from its checkpoint: {trial.config['name']}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        early = f"ASHA stopped it at step {result['step']}"
        self._ended(self.trials[trial.config["name"]], result.get("status", "stopped"), result.get("reason", early))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        mine = self.trials[trial.config["name"]]
        self._ended(mine, "failed", f"ended {RETRIES + 1} times: {mine.last_log_line()}; Ray's view: {trial.error_file}")

    def _ended(self, trial: Trial, status: str, reason: str) -> None:
        self.ended += 1
        if trial.status() not in DONE:
            trial.set_status(status, reason)
        self.log(f"{status} {trial.name} ({self.ended} of {len(self.trials)}){': ' + reason if reason else ''}")
