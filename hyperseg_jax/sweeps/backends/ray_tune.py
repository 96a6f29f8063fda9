"""The Ray Tune backend: schedules trials on a cluster, restarts them after worker failures, and can stop them early.

Ray saves experiments as pickles, which are never read back. A sweep resumes from the trials' own records instead: finished
trials report their scores again, which is all the state that ASHA needs, and the others resume from their checkpoints.
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
from hyperseg_jax.sweeps.trials import DONE, Metric, Trial, classify_exit

try:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
except ImportError as error:
    raise UserError("--backend ray: Ray is not installed; pip install 'hyperseg-jax[sweep]'") from error

POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 2.0  # maximum time between reports of a worker to Ray
RETRIES = 3  # restarts of a trial whose worker or training was killed
BAD_INPUT = 2  # exit code of a UserError; such trials are not retried


@dataclasses.dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934): after grace, grace * factor, grace * factor^2, ...
    steps, a trial continues only if its score is among the best 1 / factor of the trials that reached this step."""

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
    """Runs all unfinished trials on the Ray cluster of the environment variable RAY_ADDRESS, or on a local cluster that is
    started for them.

    out: folder for the logs of Ray. per_trial: TPU chips, GPUs or cores of a trial, depending on the cluster.
    """
    os.environ.update(
        {
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report may have no score
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_AIR_NEW_OUTPUT": "0",
        }
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # Ray prints a page for each failure; StatusRecorder logs a line
    started = not ray.is_initialized()
    if started:
        environment = {"RAY_kill_child_processes_on_worker_exit": "0"}  # a training saves after its worker exits
        ray.init(
            runtime_env={"env_vars": environment}, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
        )
    try:
        longest = max(trial.steps for trial in trials)
        scheduler = asha and ASHAScheduler(
            time_attr="step", max_t=longest, grace_period=asha.grace, reduction_factor=asha.factor, stop_last_trials=False
        )
        by_name = {trial.name: trial for trial in trials}
        trainable = tune.with_parameters(TrialRunner, trials=by_name, metric=metric)
        tuner = tune.Tuner(
            tune.with_resources(trainable, trial_resources(per_trial)),
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
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # checkpoints are in the workdir
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[StatusRecorder(by_name, log)],
            ),
        )
        with on_sigterm(lambda *_: signal.raise_signal(signal.SIGINT)):  # Tune then stops its trials and returns
            tuner.fit()
    finally:
        interrupted = [trial for trial in trials if trial.status() == "running"]
        for trial in interrupted:
            trial.set_status("interrupted", "the sweep was stopped")
        if started:
            ray.shutdown()
    if interrupted:
        raise KeyboardInterrupt


def trial_resources(per_trial: int | None) -> dict[str, float]:
    """Returns the Ray resources of a trial: TPU chips, GPUs or CPU cores, whichever the cluster has. Raises UserError if no
    node has enough. per_trial: number of them; None: the default."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = next((kind for kind in ("TPU", "GPU") if any(node.get(kind) for node in nodes)), "CPU")
    most = int(max(node.get(kind, 0) for node in nodes))
    size = per_trial or (min(CPU_SHARE, most) if kind == "CPU" else 1)
    if not 1 <= size <= most:
        raise UserError(f"--per-trial {size}: the largest node of the Ray cluster has {most} {kind}s; give 1 to {most}")
    return {kind: size} if kind == "CPU" else {kind: size, "CPU": 1}


class TrialRunner(tune.Trainable):
    """Runs the training of a trial as a subprocess, and reports the scores in its metrics.jsonl to Ray. Each iteration reports
    a score or is a heartbeat; the last one reports the status.

    A killed trial is restarted on another worker: it waits for the old process to exit (sweeps.child_guard), resumes from the
    checkpoint and reports all scores again; the scheduler ignores known ones.
    """

    def setup(self, config: dict[str, Any], trials: Mapping[str, Trial], metric: Metric) -> None:
        """Called by Ray: starts the training unless the trial is done. config: {"name": name of the trial}."""
        self.trial, self.metric = trials[config["name"]], metric
        self.training = None if self.trial.status() in DONE else TrainingProcess(self.trial)
        self.reported_step = 0

    def step(self) -> dict[str, Any]:
        """Called by Ray: waits for the next score, for at most HEARTBEAT_SECONDS, and returns the report."""
        until = time.monotonic() + HEARTBEAT_SECONDS
        while True:
            code = self.training.poll() if self.training else 0  # polled first, so that no score is missed
            for step, score in self.metric.scores(self.trial.metric_lines()):
                if step > self.reported_step and (code is not None or step < self.trial.steps):
                    self.reported_step = step
                    return {"step": step, "score": score}
            if code is not None:
                return self._final_report(code)
            if time.monotonic() > until:
                return {"step": self.reported_step}
            time.sleep(POLL_SECONDS)

    def _final_report(self, code: int) -> dict[str, Any]:
        """Returns the last report of a trial whose training exited with this code. Raises RuntimeError if Ray must retry it."""
        status, reason = classify_exit(self.trial, code) if self.training else (self.trial.status(), "")
        if status in DONE or code == BAD_INPUT:
            return {"step": self.reported_step, "status": status, "reason": reason, "done": True}
        raise RuntimeError(reason)  # killed: Ray retries the trial

    def cleanup(self) -> None:
        """Called by Ray at the end: stops the training and waits until it has saved."""
        if self.training:
            self.training.request_stop()
            self.training.wait()


class StatusRecorder(tune.Callback):
    """Ray callback that writes the status of trials to their records, in the process that started the sweep."""

    def __init__(self, trials: Mapping[str, Trial], log: Callable[[str], None]) -> None:
        self.trials, self.log, self.ended = trials, log, 0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks into its experiment state, which is never read

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        sweep_trial = self.trials[trial.config["name"]]
        if sweep_trial.status() not in DONE:
            sweep_trial.set_status("running")
            self.log(f"started {sweep_trial.name}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.log(f"killed, resumes from its checkpoint: {trial.config['name']}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        reason = f"ASHA stopped it at step {result['step']}"
        self._record_end(self.trials[trial.config["name"]], result.get("status", "stopped"), result.get("reason", reason))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        sweep_trial = self.trials[trial.config["name"]]
        self._record_end(
            sweep_trial, "failed", f"ended {RETRIES + 1} times: {sweep_trial.last_log_line()}; error of Ray: {trial.error_file}"
        )

    def _record_end(self, trial: Trial, status: str, reason: str) -> None:
        """Records and logs the status of a trial that has ended."""
        self.ended += 1
        if trial.status() not in DONE:
            trial.set_status(status, reason)
        self.log(f"{status} {trial.name} ({self.ended} of {len(self.trials)}){': ' + reason if reason else ''}")
