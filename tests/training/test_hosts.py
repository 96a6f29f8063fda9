"""Runs of several real processes: they agree with one process, stop together, and go on after any end."""

import contextlib
import json
import os
import pathlib
import re
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
STEPS = 28


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A run of `processes` processes in one workdir. rows: {global element: digests that were fed}."""

    def __init__(self, folder, world, processes, *, devices=1, pause=0.0, only=None, **fields):
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
            str(TESTS / "training" / "one_of_many.py"),
            "train",
            "--workdir",
            str(self.workdir),
            "--config",
            str(TESTS / "micro_config.py"),
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
        return {name: value for name, value in found.items() if name not in ("kind", "task")}

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


def continued(alone, tmp_path, step):
    """A folder with a copy of that run as it was when a step had been saved."""
    shutil.copytree(alone.workdir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    return tmp_path


def agree(run, alone, *, first=1e-5, later=1e-2):
    """Batches bit-equal, the first loss to 1e-5, all steps to 1e-2, every score to what the parameters differ by."""
    assert run.rows() == alone.rows()
    ours, theirs = run.losses(), alone.losses()
    assert ours.keys() == theirs.keys() and ours[1] == pytest.approx(theirs[1], rel=first)
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=later)
    scores, wanted = run.scores(), alone.scores()
    assert scores["count"] == wanted["count"] == 12 and 0 < wanted["ciou"] < 1
    assert scores == pytest.approx(wanted, rel=2e-2)


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
    for name, array in resumed.model().items():
        np.testing.assert_allclose(array, alone.model()[name], atol=1e-3)


def same_model(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="session")
def pair(shared, world):
    """A run of two processes, never stopped."""
    folder = shared("pair", lambda folder: Run(folder, world, 2).done())
    run = Run.__new__(Run)
    run.workdir, run.notes = folder / "run", folder / "rows"
    return run


def damaged(world, folder):
    """The toy world with three of its 24 training images cut off."""
    root = shutil.copytree(world, folder)
    for path in sorted((root / "coco" / "train").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.mark.slow
def test_too_much_that_one_host_cannot_read_ends_all_at_one_step(world, tmp_path):
    run = Run(tmp_path, damaged(world, tmp_path / "world"), 2, data__max_unreadable_share=0.0, data__length_buckets=(64, 88))
    assert run.codes() == [2, 2], run.said()
    told = [re.search(r"\d+ of \d+ training records could not be read.*", log.read_text())[0] for log in run.logs]
    assert told[0] == told[1] and str(tmp_path / "world" / "coco" / "train") in told[0]
    assert (run.workdir / "unreadable_records.txt").exists()


@pytest.mark.slow
def test_what_one_host_cannot_read_is_counted_and_named_on_all(world, tmp_path):
    run = Run(
        tmp_path,
        damaged(world, tmp_path / "world"),
        2,
        train__steps=10,
        data__max_unreadable_share=0.9,
        data__length_buckets=(64, 88),
    ).done()
    counts = [int(line["bad"]) for line in read_metrics(run.workdir / "metrics.jsonl") if line["kind"] == "train"]
    named = [int(line.split("\t")[0]) for line in (run.workdir / "unreadable_records.txt").read_text().splitlines()]
    assert [sum(at < 8 * step for at in named) for step in range(1, 11)] == counts
    assert {at % 8 // 4 for at in named} == {0, 1}, "only one of the hosts had bad records"
    assert run.said().count("training records could not be read and are ignored") == 1


@pytest.mark.slow
def test_four_processes_and_workers_agree_with_one(alone, world, tmp_path):
    agree(Run(tmp_path, world, 4, data__workers=1).done(), alone)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp_tensor"])
def test_other_meshes_agree_with_one(alone, world, tmp_path, preset):
    """With tensor 2 on two processes of two devices each, rows lie with one process; with four in one axis, with both."""
    sizes = {"train__mesh__fsdp": 1, "train__mesh__tensor": 4} if preset == "fsdp_tensor" else {}
    agree(Run(tmp_path, world, 2, devices=2, train__preset=preset, **sizes).done(), alone)


@pytest.mark.slow
def test_resumed_on_the_same_mesh_it_is_bit_equal(pair, world, tmp_path):
    resumed = Run(continued(pair, tmp_path, 16), world, 2, data__workers=1).done()
    assert "resuming at step 16" in resumed.said()
    assert same_model(resumed.model(), pair.model()) and resumed.losses() == pair.losses()


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, devices, fields",
    [
        (1, 1, {"train__preset": "single"}),
        (4, 1, {"train__preset": "fsdp"}),
        (2, 2, {"train__preset": "data_fsdp", "train__mesh__fsdp": 2, "data__workers": 2}),
    ],
)
def test_resumed_on_another_mesh_it_sees_the_same_rows_and_losses(pair, world, tmp_path, processes, devices, fields):
    run = Run(continued(pair, tmp_path, 8), world, processes, devices=devices, **fields).done()
    fed = run.rows()
    assert fed == {element: digests for element, digests in pair.rows().items() if element >= 8 * 8}
    ours, theirs = run.losses(), pair.losses()
    assert ours[9] == pytest.approx(theirs[9], rel=1e-5)
    assert [ours[k] for k in range(9, STEPS + 1)] == pytest.approx([theirs[k] for k in range(9, STEPS + 1)], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(alone, world, tmp_path, victim):
    killed = Run(tmp_path, world, 2, pause=0.1, train__save_every=2).until(7)
    began = time.monotonic()
    killed.processes[victim].kill()
    codes = killed.codes(60)
    assert time.monotonic() - began < 45 and codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0
    assert "error: process" in killed.said() or "another task died" in killed.said()
    steps = max(killed.losses())
    resumed = Run(tmp_path, world, 2, train__save_every=2).done()
    begun = int(resumed.said().split("resuming at step ")[1].split()[0])
    assert steps - 4 <= begun <= steps, "more was lost than the steps since the last save, or one under way"
    agree(resumed, alone)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(world, tmp_path):
    """Nothing closes its connections: only the heartbeat tells."""
    run = Run(tmp_path, world, 2, pause=0.1).until(2)
    run.processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code = run.processes[0].wait(60)
    run.processes[1].kill()
    assert code != 0 and time.monotonic() - began < 45
    assert "another task died" in run.said() or "error: process 0" in run.said()


@pytest.mark.slow
def test_ctrl_c_on_one_process_with_workers_stops_all(world, tmp_path):
    stopped = Run(tmp_path, world, 2, pause=0.1, data__workers=2).until(2)
    os.killpg(stopped.processes[0].pid, signal.SIGINT)  # as a terminal sends it: the workers get it as well
    stopped.done()
    assert "stopped at step" in stopped.said() and "Traceback" not in stopped.said()


@pytest.mark.slow
def test_ctrl_c_with_workers_in_one_process_ends_cleanly(world, tmp_path):
    stopped = Run(tmp_path, world, 1, pause=0.1, data__workers=2).until(2)
    os.killpg(stopped.processes[0].pid, signal.SIGINT)
    stopped.done()
    assert "stopped at step" in stopped.said() and "Traceback" not in stopped.said()


@pytest.mark.slow
def test_hosts_that_do_not_come_are_named(world, tmp_path):
    run = Run(tmp_path, world, 4, only=(0, 2), hosts__start=15)
    assert run.codes(60) == [1, 1]
    assert run.said().count("after 15 s, process 1, 3 of 4 did not reach the start") == 2


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over_by_all(pair, world, tmp_path):
    folder = continued(pair, tmp_path, 16)
    shutil.rmtree(folder / "run" / "checkpoints" / "16" / "params" / "d")
    resumed = Run(folder, world, 2).done()
    assert (
        "/16: cannot be read completely, trying the previous one" in resumed.said() and "resuming at step 8" in resumed.said()
    )
    assert same_model(resumed.model(), pair.model()) and resumed.saved() == [8, 16, 24, 28]


def limit(process, size):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_of_one_host_fails_the_save_and_training_goes_on(alone, world, tmp_path, victim):
    """Files of that process cannot grow beyond 200 kB until step 12 is past; the save of step 8 fails, that of 16 is whole."""
    run = Run(tmp_path, world, 2, pause=0.4, hosts__barrier=5, hosts__heartbeat=60).until(2)
    limit(run.processes[victim], 200_000)
    run.until(12)
    limit(run.processes[victim], resource.RLIM_INFINITY)
    run.done()
    assert "the save of step 8 failed" in run.said() and f"process {victim}" in run.said()
    assert run.saved() == [16, 24, 28]
    agree(run, alone)


@pytest.mark.slow
def test_when_the_last_save_fails_the_run_ends_with_an_error(world, tmp_path):
    run = Run(tmp_path, world, 2, pause=0.1, hosts__barrier=5, hosts__heartbeat=60).until(17)
    limit(run.processes[0], 1_000_000)  # less than a checkpoint, more than the log
    assert run.codes() == [2, 2], run.said()
    assert "the last save failed" in run.said() and "the same command again" in run.said()
    resumed = Run(tmp_path, world, 2).done()
    assert "resuming at step 16" in resumed.said()


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written_is_one_line(world, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    run = Run(tmp_path, world, 2)
    assert run.codes() == [2, 2] and "cannot be written" in run.said() and "Traceback" not in run.said()
