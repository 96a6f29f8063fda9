"""Trials of a fake training, and their files."""

import json
import os
import pathlib
import time

import pytest

from hyperseg_jax.sweeps.trials import Trial

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(autouse=True)
def _fake_training_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{HERE}")


@pytest.fixture
def make_trials(tmp_path):
    """make_trials(rates, steps=20, pause=0): trials of the fake training."""

    def make(rates, steps=20, **flags):
        fixed = (f"train.steps={steps}", *(f"{name}={value}" for name, value in flags.items()))
        return [
            Trial({"rate": str(rate)}, "tiny", fixed, steps, tmp_path / "out" / "trials", training="fake_training")
            for rate in rates
        ]

    return make


class TrialFiles:
    """Reads the files that fake trainings write."""

    @staticmethod
    def starts(trial):
        path = pathlib.Path(trial.workdir, "starts.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @staticmethod
    def end(trial):
        """Returns the checkpoint and every line of the metrics."""
        return json.loads(pathlib.Path(trial.workdir, "checkpoint.json").read_text()), list(trial.metric_lines())

    @staticmethod
    def wait(condition, seconds=60):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "timed out"
            time.sleep(0.02)


@pytest.fixture
def trial_files():
    return TrialFiles
