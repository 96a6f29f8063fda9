"""A simulated pod: a small model with the structure of the recipe (LoRA, all tasks, accumulation) on four processes is killed,
and resumed on two."""

import pathlib
import signal
import time

import numpy as np
import pytest
from process_run import COMMAND, Run

from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.weights import model_folder

CONFIG = pathlib.Path(__file__).parents[1] / "pod_config.py"
TASKS = {"referring", "panoptic", "region", "reasoning", "video", "chat"}
STEPS = 30
FIELDS = {
    "program": COMMAND,
    "config": CONFIG,
    "train.steps": STEPS,
    "train.save_every": 6,
    "train.eval_every": STEPS,
    "train.preset": "data",
    "hosts.heartbeat": 30,
    "hosts.barrier": 600,
}


def read_lines(run, kind):
    return [line for line in read_valid_lines(run.workdir / "metrics.jsonl") if line["kind"] == kind]


@pytest.mark.slow
def test_a_pod_run_is_killed_and_resumed_on_half_the_hosts(world, tmp_path):
    whole = Run(tmp_path / "whole", world, 4, **FIELDS)
    assert whole.exit_codes(seconds=1500) == [0] * 4, whole.output()[-4000:]

    killed = Run(tmp_path / "killed", world, 4, **FIELDS).wait_until(7)
    while not killed.saved():  # checkpoints are written in the background
        time.sleep(0.1)
    killed.processes[2].send_signal(signal.SIGKILL)
    codes = killed.exit_codes(seconds=300)
    assert codes[2] == -signal.SIGKILL and all(code != 0 for code in codes)
    step = killed.saved()[-1]
    assert step < STEPS and not (killed.workdir / "model").exists()

    resumed = Run(tmp_path / "killed", world, 2, **FIELDS)
    assert resumed.exit_codes(seconds=1500) == [0] * 2, resumed.output()[-4000:]
    assert f"resuming at step {step}" in resumed.output()
    ours, expected = read_lines(resumed, "train"), read_lines(whole, "train")
    assert [(line["step"], line["task"]) for line in ours] == [(line["step"], line["task"]) for line in expected]
    assert {line["task"] for line in ours} == TASKS and len(ours) == STEPS
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in expected], rtol=1e-2)
    assert {line["task"] for line in read_lines(resumed, "validation")} == {
        line["task"] for line in read_lines(whole, "validation")
    }

    checkpoints = resumed.workdir / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"12", "18", "24", "30", "frozen"}
    output = model_folder.read_arrays(resumed.workdir / "model")
    reference = model_folder.read_arrays(whole.workdir / "model")
    moved = [path for path in output if not np.array_equal(output[path], reference[path])]
    assert output.keys() == reference.keys() and any("lora" in path for path in output)
    assert not any(path.startswith(("clip_encoder", "mask_encoder", "llm/tokens")) for path in moved), "a frozen one changed"
