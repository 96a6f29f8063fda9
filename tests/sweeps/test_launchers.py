"""Jobs of GKE and Slurm: arguments and calls of the launch scripts."""

import json
import re

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps.backends import launchers

SCRIPT = """
import json, pathlib, sys
with pathlib.Path(__file__).with_suffix(".calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit("no quota" if any("rate=7" in text for text in sys.argv) else 0)
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "checkout" / "launch").mkdir(parents=True)
    (tmp_path / "checkout" / "launch" / "slurm.py").write_text(SCRIPT)
    return tmp_path / "checkout"


def read_calls(root):
    path = root / "launch" / "slurm.calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def submit(trials, root, resubmit=False):
    messages = []
    trials[0].folder.mkdir(parents=True, exist_ok=True)
    launchers.submit_trials(trials, "slurm", ["--time", "1:00"], resubmit=resubmit, log=messages.append, root=root)
    return messages


def test_each_trial_is_submitted_once(make_trials, root, trial_files):
    trials = make_trials((1, 2))
    submit(trials, root)
    args = lambda trial: ["--time", "1:00", "--config.train.steps=20", f"--config.rate={trial.values['rate']}"]
    assert read_calls(root) == [["tiny", t.workdir, "--name", launchers.job_name(t), *args(t)] for t in trials]
    assert [trial.status() for trial in trials] == ["submitted"] * 2

    local_end = {"kind": "train", "step": 20, "task": "referring", "loss": 1.0}
    (trials[0].folder / trials[0].name).mkdir()
    (trials[0].folder / trials[0].name / "metrics.jsonl").write_text(json.dumps(local_end) + "\n")
    submit(trials, root)
    assert len(read_calls(root)) == 2 and [trial.status() for trial in trials] == ["finished", "submitted"]
    submit(trials, root, resubmit=True)
    assert read_calls(root)[2:] == read_calls(root)[1:2], "only what has not ended is submitted again"


def test_job_names_are_valid_for_kubernetes(make_trials):
    (trial,) = make_trials((1,))
    assert re.fullmatch(r"hs-out-[0-9a-f]{8}", launchers.job_name(trial))
    odd = type(trial)(trial.values, "tiny", (), 5, trial.folder.parents[1] / "Läng_er than twenty letters_" / "trials")
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,32}[a-z0-9]", launchers.job_name(odd))


def test_a_failing_script_aborts_and_keeps_submitted_jobs(make_trials, root):
    trials = make_trials((1, 7, 2))
    with pytest.raises(UserError, match=r"launch/slurm\.py ended with code 1: no quota"):
        submit(trials, root)
    assert [trial.status() for trial in trials] == ["submitted", "waiting", "waiting"]


def test_missing_launch_scripts_are_named(make_trials, root):
    with pytest.raises(UserError, match=r"launch/gke\.py is missing; install hyperseg_jax from a checkout"):
        launchers.submit_command(make_trials((1,))[0], "gke", root=root)
