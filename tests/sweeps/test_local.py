"""The local queue: packing, and resuming after interruptions."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from hyperseg_jax.sweeps.backends import local
from hyperseg_jax.sweeps.devices import Share

CORE = min(os.sched_getaffinity(0))
HERE = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch):
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)


def test_trials_are_packed_onto_device_shares(make_trials, trial_files):
    trials, messages = make_trials((1, 2, 3, 4, 5), pause=0.01), []
    shares = [Share({"CUDA_VISIBLE_DEVICES": "0"}), Share({"CUDA_VISIBLE_DEVICES": "1"}, cores=(CORE,))]
    local.run(trials, shares, log=messages.append)
    assert [trial.status() for trial in trials] == ["finished"] * 5
    starts = [trial_files.starts(trial) for trial in trials]
    assert all(len(start) == 1 for start in starts)
    assert {start[0]["environment"]["CUDA_VISIBLE_DEVICES"] for start in starts} == {"0", "1"}
    assert all(start[0]["cores"] == [CORE] for start in starts if start[0]["environment"]["CUDA_VISIBLE_DEVICES"] == "1")
    for device in ("0", "1"):  # one after the other
        mine = [
            (start[0]["time"], pathlib.Path(trial.workdir, "checkpoint.json").stat().st_mtime)
            for trial, start in zip(trials, starts, strict=True)
            if start[0]["environment"]["CUDA_VISIBLE_DEVICES"] == device
        ]
        assert len(mine) >= 2 and all(end < start for (_, end), (start, _) in itertools.pairwise(sorted(mine)))
    ends = [line for line in messages if line.startswith(("started", "finished"))]
    assert [line.split()[0] for line in ends[:2]] == ["started"] * 2 and ends[2].startswith("finished")  # two at a time

    local.run(trials, [Share()], log=messages.append)
    assert messages[-1] == "5 of 5 trials are already done"
    assert [trial_files.starts(trial) for trial in trials] == starts, "a finished trial was started again"


def test_a_failed_trial_does_not_affect_others_and_is_retried(make_trials, trial_files):
    trials = make_trials((-1, 2))
    for count in (1, 2):
        messages = []
        local.run(trials, [Share()], log=messages.append)
        assert [trial.status() for trial in trials] == ["failed", "finished"]
        assert any("failed rate=-1" in line and "exit code 1: rate is negative" in line for line in messages)
        assert trials[0].log.read_text().count("rate is negative") == count
    assert len(trial_files.starts(trials[1])) == 1


def test_trials_that_end_early_are_not_finished(make_trials):
    (short,) = make_trials((1,), steps=5)
    (longer,) = [type(short)(short.values, short.config, short.fixed, 10, short.folder, training=short.training)]
    local.run([longer], [Share()], log=lambda _: None)
    assert longer.status() == "interrupted"


SWEEP = """
import pathlib, sys
from hyperseg_jax.sweeps.backends import local
from hyperseg_jax.sweeps.devices import Share
from hyperseg_jax.sweeps.trials import Trial
fixed = ("train.steps=60", "pause=0.05")
out = pathlib.Path(sys.argv[1])
trials = [Trial({"rate": rate}, "tiny", fixed, 60, out, training="fake_training") for rate in ("1", "2", "3")]
local.run(trials, [Share(), Share()], log=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_resumes_without_loss(make_trials, trial_files, number, tmp_path):
    trials = make_trials((1, 2, 3), steps=60, pause=0.05)
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, str(trials[0].folder)], stdout=subprocess.PIPE, text=True)
    trial_files.wait(
        lambda: sweep.poll() is not None or all(any(line["step"] >= 3 for line in trial.metric_lines()) for trial in trials[:2])
    )
    sweep.send_signal(number)
    sweep.communicate()
    assert sweep.returncode != 0
    if number != signal.SIGKILL:
        assert [trial.status() for trial in trials] == ["interrupted", "interrupted", "waiting"]

    local.run(trials, [Share(), Share()], log=lambda _: None)
    assert [trial.status() for trial in trials] == ["finished"] * 3
    for trial in trials[:2]:
        first, second = trial_files.starts(trial)
        assert first["from"] == 0 and 3 <= second["from"] < 60, "it did not save when the sweep died"
    undisturbed = [type(t)(t.values, t.config, ("train.steps=60",), 60, tmp_path / "calm", training=t.training) for t in trials]
    local.run(undisturbed, [Share(), Share()], log=lambda _: None)
    assert [trial_files.end(trial) for trial in trials] == [trial_files.end(trial) for trial in undisturbed]


def test_one_process_per_trial(make_trials, trial_files):
    """A process that starts while another still trains waits for it to end."""
    from hyperseg_jax.sweeps.process import TrainingProcess

    (trial,) = make_trials((1,), steps=10, pause=0.05)
    one = TrainingProcess(trial)
    trial_files.wait(lambda: trial_files.starts(trial))
    other = TrainingProcess(trial)
    assert (one.wait(), other.wait()) == (0, 0), trial.last_log_line()
    first, second = trial_files.starts(trial)
    assert (first["from"], second["from"]) == (0, 10)
    assert "waiting for an earlier process" in trial.log.read_text()
