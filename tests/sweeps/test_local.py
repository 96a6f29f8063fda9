"""The queue on one machine: packing, and going on after every kind of end."""

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
def _quick(monkeypatch):
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)


def test_trials_are_packed_on_the_shares(fakes, seen):
    trials, told = fakes((1, 2, 3, 4, 5), pause=0.01), []
    shares = [Share({"CUDA_VISIBLE_DEVICES": "0"}), Share({"CUDA_VISIBLE_DEVICES": "1"}, cores=(CORE,))]
    local.run(trials, shares, log=told.append)
    assert [trial.status() for trial in trials] == ["finished"] * 5
    starts = [seen.starts(trial) for trial in trials]
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
    ends = [line for line in told if line.startswith(("started", "finished"))]
    assert [line.split()[0] for line in ends[:2]] == ["started"] * 2 and ends[2].startswith("finished")  # two at a time

    local.run(trials, [Share()], log=told.append)
    assert told[-1] == "5 of 5 trials are already done"
    assert [seen.starts(trial) for trial in trials] == starts, "a finished trial was started again"


def test_a_failure_leaves_the_others_alone_and_is_tried_again(fakes, seen):
    trials = fakes((-1, 2))
    for count in (1, 2):
        told = []
        local.run(trials, [Share()], log=told.append)
        assert [trial.status() for trial in trials] == ["failed", "finished"]
        assert any("failed rate=-1" in line and "exit code 1: rate is negative" in line for line in told)
        assert trials[0].log.read_text().count("rate is negative") == count
    assert len(seen.starts(trials[1])) == 1


def test_what_ends_early_is_not_finished(fakes):
    (short,) = fakes((1,), steps=5)
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
def test_a_sweep_that_was_ended_goes_on_and_loses_nothing(fakes, seen, number, tmp_path):
    trials = fakes((1, 2, 3), steps=60, pause=0.05)
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, str(trials[0].folder)], stdout=subprocess.PIPE, text=True)
    seen.wait(lambda: sweep.poll() is not None or all(any(line["step"] >= 3 for line in trial.lines()) for trial in trials[:2]))
    sweep.send_signal(number)
    sweep.communicate()
    assert sweep.returncode != 0
    if number != signal.SIGKILL:
        assert [trial.status() for trial in trials] == ["interrupted", "interrupted", "waiting"]

    local.run(trials, [Share(), Share()], log=lambda _: None)
    assert [trial.status() for trial in trials] == ["finished"] * 3
    for trial in trials[:2]:
        first, second = seen.starts(trial)
        assert first["from"] == 0 and 3 <= second["from"] < 60, "it did not save when the sweep died"
    undisturbed = [type(t)(t.values, t.config, ("train.steps=60",), 60, tmp_path / "calm", training=t.training) for t in trials]
    local.run(undisturbed, [Share(), Share()], log=lambda _: None)
    assert [seen.end(trial) for trial in trials] == [seen.end(trial) for trial in undisturbed]


def test_two_processes_never_work_on_one_trial(fakes, seen):
    """Started while an earlier process still trains, it waits for its end."""
    from hyperseg_jax.sweeps.process import TrainingProcess

    (trial,) = fakes((1,), steps=10, pause=0.05)
    one = TrainingProcess(trial)
    seen.wait(lambda: seen.starts(trial))
    other = TrainingProcess(trial)
    assert (one.wait(), other.wait()) == (0, 0), trial.last_log_line()
    first, second = seen.starts(trial)
    assert (first["from"], second["from"]) == (0, 10)
    assert "waiting for an earlier process" in trial.log.read_text()
