"""Ray Tune as the engine, on a cluster of several nodes on this machine. Needs pip install -e '.[test,sweep]'."""

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
    """cluster(nodes): as many nodes of one core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # a busy machine would starve them
    made = []

    def start(nodes):
        made.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 1}))
        for _ in range(nodes - 1):
            made[0].add_node(num_cpus=1)
        made[0].wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", made[0].address)

    yield start
    for cluster in made:
        cluster.shutdown()


def sweep(trials, tmp_path, metric=SCORE, asha=None, per_trial=1):
    from hyperseg_jax.sweeps.backends import ray_tune

    told = []
    ray_tune.run(trials, metric, tmp_path / "out" / "ray", per_trial=per_trial, asha=asha, log=told.append)
    return told


def killer(condition, pid):
    """A thread that kills -9 the process pid() once condition() holds; .join() raises nothing, so assert on .killed."""
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


def last_step(trial):
    return max((line["step"] for line in trial.lines()), default=0)


def calm(trials, folder):
    """The same trials where nothing disturbs them."""
    copies = [Trial(t.values, t.config, t.fixed, t.steps, folder, training=t.training) for t in trials]
    local.run(copies, [Share(), Share()], log=lambda _: None)
    return copies


def test_killed_workers_and_trainings_come_back(cluster, fakes, seen, tmp_path):
    cluster(3)
    trials = fakes((1, 2, 3, 4), steps=60, pause=0.1)
    worker = killer(lambda: last_step(trials[0]) >= 13, lambda: seen.starts(trials[0])[-1]["parent"])
    training = killer(lambda: last_step(trials[1]) >= 13, lambda: seen.starts(trials[1])[-1]["pid"])
    told = sweep(trials, tmp_path)
    assert worker.killed and training.killed
    assert [trial.status() for trial in trials] == ["finished"] * 4
    assert sum("killed, resumes" in line for line in told) == 2
    starts = [seen.starts(trial) for trial in trials]
    assert [len(start) for start in starts] == [2, 2, 1, 1]
    assert starts[0][1]["from"] >= 13, "asked to stop by the death of its worker, it did not save"
    assert starts[1][1]["from"] == 10, "killed itself, it has what it saved before"
    assert [seen.end(trial) for trial in trials] == [seen.end(trial) for trial in calm(trials, tmp_path / "calm")]
    assert {start[0]["parent"] for start in starts} >= {starts[0][0]["parent"], starts[1][0]["parent"]}
    before = starts
    sweep(trials, tmp_path)
    assert [seen.starts(trial) for trial in trials] == before, "a finished trial was started again"


def test_asha_stops_poor_trials_and_they_stay_stopped(cluster, fakes, seen, tmp_path):
    from hyperseg_jax.sweeps.backends.ray_tune import Asha

    cluster(2)
    trials = fakes((4, 3, 2, 1), steps=60, pause=0.02)
    told = sweep(trials, tmp_path, asha=Asha(grace=5, factor=2))
    status = [trial.status() for trial in trials]
    assert status[0] == "finished" and status[-1] == "stopped" and set(status) == {"finished", "stopped"}
    assert any("ASHA stopped it at step 5" in line or "ASHA stopped it at step 10" in line for line in told)
    state, lines = seen.end(trials[-1])
    assert 5 <= state["step"] < 60 and lines[-1]["step"] == state["step"], "stopped, it did not save"
    before = [seen.starts(trial) for trial in trials]

    more = fakes((4, 3, 2, 1, 0.5, 5), steps=60, pause=0.02)
    sweep(more, tmp_path, asha=Asha(grace=5, factor=2))
    assert [seen.starts(trial) for trial in trials] == before, "what was done was started again"
    assert more[4].status() == "stopped", "ASHA forgot the scores of the first sweep"
    assert more[5].status() == "finished"


def test_bad_input_of_a_training_is_not_tried_again(cluster, fakes, seen, tmp_path):
    from hyperseg_jax.errors import UserError

    cluster(1)
    trials = fakes((13, 2))
    told = sweep(trials, tmp_path)
    assert [trial.status() for trial in trials] == ["failed", "finished"]
    assert trials[0].log.read_text().count("bad luck") == 1
    assert any("failed rate=13" in line and "exit code 2: error: bad luck" in line for line in told)
    crash = fakes((-1,))
    sweep(crash, tmp_path)
    assert crash[0].status() == "failed" and crash[0].log.read_text().count("rate is negative") == 4
    with pytest.raises(UserError, match="--per-trial 2: the largest node of the Ray cluster has 1 CPUs"):
        sweep(trials, tmp_path, per_trial=2)


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
def test_a_sweep_that_was_ended_goes_on_and_loses_nothing(cluster, fakes, seen, tmp_path, number, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    trials = fakes((1, 2, 3), steps=60, pause=0.1)
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(trials[0].folder)], stderr=subprocess.PIPE, text=True)
    seen.wait(lambda: process.poll() is not None or min(map(last_step, trials[:2])) >= 3, 120)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    if number == signal.SIGTERM:
        assert [trial.status() for trial in trials[:2]] == ["interrupted"] * 2
    cluster(2)
    sweep(trials, tmp_path)
    assert [trial.status() for trial in trials] == ["finished"] * 3
    for trial in trials[:2]:
        assert 3 <= seen.starts(trial)[1]["from"] < 60, "it did not save when the sweep died"
    assert [seen.end(trial) for trial in trials] == [seen.end(trial) for trial in calm(trials, tmp_path / "calm")]


def test_true_trainings_on_both_backends_are_bit_equal_after_a_kill(cluster, world, seen, tmp_path, monkeypatch):
    """A worker of Ray is killed (its training saves), and then the training that took its place (it has saved before)."""
    config = str(TESTS / "micro_config.py")
    fixed = (f"data.root={world}", "train.steps=64", "train.save_every=2", "train.eval_every=32")
    make = lambda folder: [Trial({"optimizer.learning_rate": rate}, config, fixed, 64, folder) for rate in ("1e-3", "1e-2")]
    undisturbed, trials = make(tmp_path / "calm"), make(tmp_path / "out" / "trials")
    local.run(undisturbed, [Share()], log=lambda _: None)
    assert [trial.status() for trial in undisturbed] == ["finished"] * 2, undisturbed[0].last_log_line()

    def of_training(kind):
        pids = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdecimal()]
        (pid,) = [pid for pid in pids if command_line(pid).endswith(trials[0].flags()[-1] + "\0")]
        return pid if kind == "training" else int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    cluster(2)
    first = killer(lambda: last_step(trials[0]) >= 3, lambda: of_training("worker"))
    resumed = lambda: trials[0].log.read_text().count("resuming at step")
    second = killer(lambda: first.killed and resumed() == 1 and last_step(trials[0]) >= 11, lambda: of_training("training"))
    told = sweep(trials, tmp_path)
    assert first.killed and second.killed and sum("killed, resumes" in line for line in told) == 2
    assert [trial.status() for trial in trials] == ["finished"] * 2, trials[0].last_log_line()
    assert resumed() == 2
    model = lambda trial: model_folder.read(pathlib.Path(trial.workdir, "model"))
    same = lambda one, other: [name for name in one if not np.array_equal(one[name], other[name])] == []
    for one, other in zip(undisturbed, trials, strict=True):
        assert model(one).keys() == model(other).keys() and same(model(one), model(other))
        assert list(map(untimed, one.lines())) == list(map(untimed, other.lines()))
    assert not same(model(trials[0]), model(trials[1]))


def untimed(line):
    """A line of metrics without what a clock told."""
    return {name: value for name, value in line.items() if name not in ("steps_per_second", "goodput", "mfu", "seconds")}


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""
