"""A training run of several processes on this machine."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.weights import model_folder

TESTS = pathlib.Path(__file__).parent
STEPS = 28
MICRO = TESTS / "micro_config.py"
WORKER = (str(TESTS / "training" / "train_worker.py"), "train")
"""The training command with a model of a few matrices."""
COMMAND = ("-m", "hyperseg_jax.train")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A run of `processes` processes in one workdir. program: the training command. rows: {global element: digests of the rows
    fed}, recorded by WORKER."""

    def __init__(self, folder, world, processes, *, devices=1, pause=0.0, only=None, program=WORKER, config=MICRO, **fields):
        self.workdir, self.notes = folder / "run", folder / "rows"
        self.notes.mkdir(parents=True, exist_ok=True)
        fields = {
            "data.root": world,
            "train.steps": STEPS,
            "train.batch_size": 8,
            "train.save_every": 8,
            "train.keep": 4,
            "train.preset": "fsdp",
            "train.eval_every": STEPS,
            "train.eval_examples": 6,
            "hosts.start": 60,
            "hosts.barrier": 120,
            "hosts.heartbeat": 10,
            "hosts.watchdog": 60,
            **{name.replace("__", "."): value for name, value in fields.items()},
        }
        command = [
            sys.executable,
            *program,
            "--workdir",
            str(self.workdir),
            "--config",
            str(config),
            *(f"--config.{k}={v}" for k, v in fields.items()),
        ]
        env = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(TESTS.parent),
            "TEST_ROWS": str(self.notes),
            "TEST_PAUSE": str(pause),
            "HYPERSEG_COORDINATOR": f"127.0.0.1:{free_port()}",
            "HYPERSEG_PROCESSES": str(processes),
            "OMP_NUM_THREADS": "1",
        }
        self.logs = [folder / f"log-{k}-{time.time_ns()}" for k in range(processes)]
        self.processes = []
        for k in range(processes) if only is None else only:
            with self.logs[k].open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [*command, "--process-id", str(k)], stdout=log, stderr=log, env=env, start_new_session=True
                    )
                )

    def wait_until(self, step):
        """Waits until the metrics reach a step."""
        while not any(line["step"] >= step for line in list(read_valid_lines(self.workdir / "metrics.jsonl"))):
            if any(process.poll() is not None for process in self.processes):
                pytest.fail(f"ended before step {step}: {self.output()[-3000:]}")
            time.sleep(0.02)
        return self

    def exit_codes(self, seconds=240):
        """Waits for all processes and returns their exit codes."""
        deadline = time.monotonic() + seconds
        try:
            return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:
                process.kill()
            pytest.fail(f"not ended after {seconds} s: {self.output()[-3000:]}")

    def done(self):
        assert self.exit_codes() == [0] * len(self.processes), self.output()[-4000:]
        return self

    def output(self):
        return "\n".join(log.read_text() for log in self.logs if log.exists())

    def losses(self):
        return {
            line["step"]: line["loss"]
            for line in list(read_valid_lines(self.workdir / "metrics.jsonl"))
            if line["kind"] == "train"
        }

    def scores(self):
        (result,) = [line for line in list(read_valid_lines(self.workdir / "metrics.jsonl")) if line["kind"] == "validation"]
        return {name: value for name, value in result.items() if name not in ("kind", "task")}

    def rows(self):
        result = {}
        for path in self.notes.iterdir():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # truncated by a kill
                    element, digest = json.loads(line)
                    result.setdefault(element, set()).add(digest)
        return result

    def saved(self):
        return sorted(int(path.name) for path in (self.workdir / "checkpoints").iterdir() if path.name.isdigit())

    def model(self):
        return model_folder.read_arrays(self.workdir / "model")


def exit_at_once(*_) -> None:
    """Ends this process like a kill; for workers."""
    os._exit(1)
