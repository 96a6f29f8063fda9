"""Sweeps with Ray Tune, on a local cluster of several nodes. Needs pip install -e '.[test,sweep]'."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from hyperseg_jax.sweeps.backends import local
from hyperseg_jax.sweeps.devices import Share
from hyperseg_jax.sweeps.trials import Metric, Trial
from hyperseg_jax.weights import model_folder

pytestmark = pytest.mark.slow
TESTS = pathlib.Path(__file__).parents[1]
SCORE = Metric("referring", "ciou", "max")


@pytest.fixture
def cluster(monkeypatch):
    """cluster(nodes): starts nodes of one core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise they starve on a busy machine
    results = []

    def start(nodes):
        results.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 1}))
        for _ in range(nodes - 1):
            results[0].add_node(num_cpus=1)
        results[0].wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", results[0].address)

    yield start
    for cluster in results:
        cluster.shutdown()


def run_sweep(trials, tmp_path, metric=SCORE, asha=None, per_trial=1):
    from hyperseg_jax.sweeps.backends import ray_tune

    messages = []
    ray_tune.run(trials, metric, tmp_path / "out" / "ray", per_trial=per_trial, asha=asha, log=messages.append)
    return messages


def kill_when(condition, pid):
    """Starts a thread that kills -9 the process pid() once condition() holds; .join() raises nothing, so assert on .killed."""
    import threading
    import time

    class Killer(threading.Thread):
        killed = False

        def run(self):
            while not condition():
                time.sleep(0.02)
            os.kill(pid(), signal.SIGKILL)
            self.killed = True

    thread = Killer(daemon=True)
    thread.start()
    return thread


def read_last_step(trial):
    return max((line["step"] for line in trial.metric_lines()), default=0)


def run_uninterrupted(trials, folder):
    """Runs the same trials without interruptions."""
    copies = [Trial(t.values, t.config, t.fixed, t.steps, folder, training=t.training) for t in trials]
    local.run(copies, [Share(), Share()], log=lambda _: None)
    return copies


def test_killed_workers_and_trainings_are_restarted(cluster, make_trials, trial_files, tmp_path):
    cluster(3)
    trials = make_trials((1, 2, 3, 4), steps=60, pause=0.1)
    worker = kill_when(lambda: read_last_step(trials[0]) >= 13, lambda: trial_files.starts(trials[0])[-1]["parent"])
    training = kill_when(lambda: read_last_step(trials[1]) >= 13, lambda: trial_files.starts(trials[1])[-1]["pid"])
    messages = run_sweep(trials, tmp_path)
    assert worker.killed and training.killed
    assert [trial.status() for trial in trials] == ["finished"] * 4
    assert sum("killed, resumes" in line for line in messages) == 2
    starts = [trial_files.starts(trial) for trial in trials]
    assert [len(start) for start in starts] == [2, 2, 1, 1]
    assert starts[0][1]["from"] >= 13, "asked to stop by the death of its worker, it did not save"
    assert starts[1][1]["from"] == 10, "killed itself, it has what it saved before"
    assert [trial_files.end(trial) for trial in trials] == [
        trial_files.end(trial) for trial in run_uninterrupted(trials, tmp_path / "calm")
    ]
    assert {start[0]["parent"] for start in starts} >= {starts[0][0]["parent"], starts[1][0]["parent"]}
    before = starts
    run_sweep(trials, tmp_path)
    assert [trial_files.starts(trial) for trial in trials] == before, "a finished trial was started again"


def test_asha_stops_poor_trials_permanently(cluster, make_trials, trial_files, tmp_path):
    from hyperseg_jax.sweeps.backends.ray_tune import Asha

    cluster(2)
    trials = make_trials((4, 3, 2, 1), steps=60, pause=0.02)
    messages = run_sweep(trials, tmp_path, asha=Asha(grace=5, factor=2))
    status = [trial.status() for trial in trials]
    assert status[0] == "finished" and status[-1] == "stopped" and set(status) == {"finished", "stopped"}
    assert any("ASHA stopped it at step 5" in line or "ASHA stopped it at step 10" in line for line in messages)
    state, lines = trial_files.end(trials[-1])
    assert 5 <= state["step"] < 60 and lines[-1]["step"] == state["step"], "stopped, it did not save"
    before = [trial_files.starts(trial) for trial in trials]

    more = make_trials((4, 3, 2, 1, 0.5, 5), steps=60, pause=0.02)
    run_sweep(more, tmp_path, asha=Asha(grace=5, factor=2))
    assert [trial_files.starts(trial) for trial in trials] == before, "what was done was started again"
    assert more[4].status() == "stopped", "ASHA forgot the scores of the first sweep"
    assert more[5].status() == "finished"


def test_invalid_input_is_not_retried(cluster, make_trials, trial_files, tmp_path):
    from hyperseg_jax.errors import UserError

    cluster(1)
    trials = make_trials((13, 2))
    messages = run_sweep(trials, tmp_path)
    assert [trial.status() for trial in trials] == ["failed", "finished"]
    assert trials[0].log.read_text().count("bad luck") == 1
    assert any("failed rate=13" in line and "exit code 2: error: bad luck" in line for line in messages)
    crash = make_trials((-1,))
    run_sweep(crash, tmp_path)
    assert crash[0].status() == "failed" and crash[0].log.read_text().count("rate is negative") == 4
    with pytest.raises(UserError, match="--per-trial 2: the largest node of the Ray cluster has 1 CPUs"):
        run_sweep(trials, tmp_path, per_trial=2)


INTERRUPTED = """
import pathlib, sys
from hyperseg_jax.sweeps.backends import ray_tune
from hyperseg_jax.sweeps.trials import Metric, Trial
out = pathlib.Path(sys.argv[1])
fixed = ("train.steps=60", "pause=0.1")
trials = [Trial({"rate": rate}, "tiny", fixed, 60, out, training="fake_training") for rate in ("1", "2", "3")]
ray_tune.run(trials, Metric("referring", "ciou", "max"), out.parent / "ray", per_trial=1, asha=None, log=print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_sweep_resumes_without_loss(cluster, make_trials, trial_files, tmp_path, number, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    trials = make_trials((1, 2, 3), steps=60, pause=0.1)
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(trials[0].folder)], stderr=subprocess.PIPE, text=True)
    trial_files.wait(lambda: process.poll() is not None or min(map(read_last_step, trials[:2])) >= 3, 120)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    if number == signal.SIGTERM:
        assert [trial.status() for trial in trials[:2]] == ["interrupted"] * 2
    cluster(2)
    run_sweep(trials, tmp_path)
    assert [trial.status() for trial in trials] == ["finished"] * 3
    for trial in trials[:2]:
        assert 3 <= trial_files.starts(trial)[1]["from"] < 60, "it did not save when the sweep died"
    assert [trial_files.end(trial) for trial in trials] == [
        trial_files.end(trial) for trial in run_uninterrupted(trials, tmp_path / "calm")
    ]


def test_real_trainings_are_bit_equal_after_a_kill(cluster, world, trial_files, tmp_path, monkeypatch):
    """First a Ray worker is killed (its training saves), then the training that replaced it (after a save)."""
    config = str(TESTS / "micro_config.py")
    fixed = (f"data.root={world}", "train.steps=64", "train.save_every=2", "train.eval_every=32")
    make = lambda folder: [Trial({"optimizer.learning_rate": rate}, config, fixed, 64, folder) for rate in ("1e-3", "1e-2")]
    undisturbed, trials = make(tmp_path / "calm"), make(tmp_path / "out" / "trials")
    local.run(undisturbed, [Share()], log=lambda _: None)
    assert [trial.status() for trial in undisturbed] == ["finished"] * 2, undisturbed[0].last_log_line()

    def is_training(kind):
        pids = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdecimal()]
        (pid,) = [pid for pid in pids if read_command_line(pid).endswith(trials[0].flags()[-1] + "\0")]
        return pid if kind == "training" else int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    cluster(2)
    first = kill_when(lambda: read_last_step(trials[0]) >= 3, lambda: is_training("worker"))
    resumed = lambda: trials[0].log.read_text().count("resuming at step")
    second = kill_when(
        lambda: first.killed and resumed() == 1 and read_last_step(trials[0]) >= 11, lambda: is_training("training")
    )
    messages = run_sweep(trials, tmp_path)
    assert first.killed and second.killed and sum("killed, resumes" in line for line in messages) == 2
    assert [trial.status() for trial in trials] == ["finished"] * 2, trials[0].last_log_line()
    assert resumed() == 2
    model = lambda trial: model_folder.read_arrays(pathlib.Path(trial.workdir, "model"))
    same = lambda one, other: [name for name in one if not np.array_equal(one[name], other[name])] == []
    for one, other in zip(undisturbed, trials, strict=True):
        assert model(one).keys() == model(other).keys() and same(model(one), model(other))
        assert list(map(without_times, one.metric_lines())) == list(map(without_times, other.metric_lines()))
    assert not same(model(trials[0]), model(trials[1]))


def without_times(line):
    """Returns a line of metrics without times."""
    return {name: value for name, value in line.items() if name not in ("steps_per_second", "goodput", "mfu", "seconds")}


def read_command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # the process has ended
        return ""
