"""Runs of several real processes: they agree with one process, stop together, and go on after any end."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from hyperseg_jax.training.observers import read_metrics
from hyperseg_jax.weights import model_folder

TESTS = pathlib.Path(__file__).parents[1]
STEPS = 24


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A run of `processes` processes in one workdir. rows: {global element: digests that were fed}."""

    def __init__(self, folder, world, processes, *, devices=1, pause=0.0, only=None, **fields):
        self.workdir, self.notes = folder / "run", folder / "rows"
        self.notes.mkdir(parents=True, exist_ok=True)
        fields = {"data.root": world, "train.steps": STEPS, "train.batch_size": 8, "train.save_every": 8, "train.preset": "fsdp",
                  "train.eval_every": STEPS, "train.eval_examples": 6, "hosts.start": 60, "hosts.barrier": 30,
                  "hosts.heartbeat": 10, "hosts.watchdog": 60, **{k.replace("__", "."): v for k, v in fields.items()}}  # fmt: skip
        command = [sys.executable, str(TESTS / "training" / "one_of_many.py"), "train", "--workdir", str(self.workdir),
                   "--config", str(TESTS / "micro_config.py"), *(f"--config.{k}={v}" for k, v in fields.items())]  # fmt: skip
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(TESTS.parent), "TEST_ROWS": str(self.notes),
               "TEST_PAUSE": str(pause), "HYPERSEG_COORDINATOR": f"127.0.0.1:{free_port()}",
               "HYPERSEG_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}  # fmt: skip
        self.logs = [folder / f"log-{k}-{time.time_ns()}" for k in range(processes)]
        self.processes = []
        for k in range(processes) if only is None else only:
            with self.logs[k].open("w") as log:
                self.processes.append(subprocess.Popen([*command, "--process-id", str(k)], stdout=log, stderr=log, env=env,
                                                       start_new_session=True))  # fmt: skip

    def until(self, step):
        """Waits for the metrics to come to a step."""
        while not any(line["step"] >= step for line in read_metrics(self.workdir / "metrics.jsonl")):
            if any(process.poll() is not None for process in self.processes):
                pytest.fail(f"ended before step {step}: {self.said()[-3000:]}")
            time.sleep(0.02)
        return self

    def codes(self, seconds=240):
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + seconds
        try:
            return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:
                process.kill()
            pytest.fail(f"not ended after {seconds} s: {self.said()[-3000:]}")

    def done(self):
        assert self.codes() == [0] * len(self.processes), self.said()[-4000:]
        return self

    def said(self):
        return "\n".join(log.read_text() for log in self.logs if log.exists())

    def losses(self):
        return {line["step"]: line["loss"] for line in read_metrics(self.workdir / "metrics.jsonl") if line["kind"] == "train"}

    def scores(self):
        (found,) = [line for line in read_metrics(self.workdir / "metrics.jsonl") if line["kind"] == "validation"]
        return found

    def rows(self):
        found = {}
        for path in self.notes.iterdir():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # cut off by a kill
                    element, digest = json.loads(line)
                    found.setdefault(element, set()).add(digest)
        return found

    def saved(self):
        return sorted(int(path.name) for path in (self.workdir / "checkpoints").iterdir() if path.name.isdigit())

    def model(self):
        return model_folder.read(self.workdir / "model")


@pytest.fixture(scope="session")
def alone(shared, world):
    """A run of one process with two devices, never stopped."""
    folder = shared("alone", lambda folder: Run(folder, world, 1, devices=2).done())
    run = Run.__new__(Run)
    run.workdir, run.notes = folder / "run", folder / "rows"
    return run


def agree(run, alone, *, first=1e-5, later=1e-2):
    """Batches bit-equal, the first loss to 1e-5, twenty steps to 1e-2; every score to float64's last bits or the model's."""
    assert run.rows() == alone.rows()
    ours, theirs = run.losses(), alone.losses()
    assert ours.keys() == theirs.keys() and ours[1] == pytest.approx(theirs[1], rel=first)
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=later)
    assert run.scores() == pytest.approx(alone.scores(), rel=1e-3)


def test_two_processes_stop_together_and_end_like_one(alone, world, tmp_path):
    """SIGTERM to one: both save at the same step and end with 0; the same command goes on; all as in one process."""
    stopped = Run(tmp_path, world, 2, pause=0.05).until(3)
    stopped.processes[1].send_signal(signal.SIGTERM)
    stopped.done()
    (step,) = stopped.saved()[-1:]
    assert 3 < step < STEPS and f"stopped at step {step}" in stopped.said()
    resumed = Run(tmp_path, world, 2).done()
    assert f"resuming at step {step}" in resumed.said()
    agree(resumed, alone)
    assert resumed.scores()["count"] == 6 * 2
    for name, array in resumed.model().items():
        np.testing.assert_allclose(array, alone.model()[name], atol=1e-3)
