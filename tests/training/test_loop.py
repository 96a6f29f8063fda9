"""A run learns, leaves what it promises, and goes on after any end as if it had never ended."""

import dataclasses
import io
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hyperseg_jax.errors import UserError
from hyperseg_jax.training import loop
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.observers import Observers, read_metrics
from hyperseg_jax.weights import model_folder

STEPS = 30
TESTS = pathlib.Path(__file__).parents[1]


def lines(workdir, kind="train"):
    return [line for line in read_metrics(workdir / "metrics.jsonl") if line["kind"] == kind]


def same_model(one, other):
    arrays = [model_folder.read(workdir / "model") for workdir in (one, other)]
    assert arrays[0].keys() == arrays[1].keys()
    return all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_a_run_learns(trained):
    losses = [line["loss"] for line in lines(trained)]
    texts = [line["text"] for line in lines(trained)]
    assert np.isfinite(losses).all() and lines(trained)[-1]["skipped"] == 0
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert np.mean(texts[-5:]) < 0.8 * np.mean(texts[:3])


def test_what_a_run_leaves(trained, world):
    assert [line["step"] for line in lines(trained)] == list(range(1, STEPS + 1))
    (scores,) = lines(trained, "validation")
    assert scores["task"] == "referring" and scores["step"] == STEPS and 0 <= scores["ciou"] <= 1
    for name in ("loss.png", "predictions.png"):
        with Image.open(trained / name) as picture:
            assert min(picture.size) > 100 and len(set(picture.convert("L").resize((64, 64)).getdata())) > 10
    assert json.loads((trained / "config.json").read_text())["data"]["root"] == str(world)
    assert sum(path.stat().st_size for path in (trained / "tensorboard").iterdir()) > 1000
    assert sorted(int(path.name) for path in (trained / "checkpoints").iterdir()) == [STEPS - 5, STEPS]
    assert sorted(path.name for path in (trained / "model").iterdir()) == sorted(model_folder.FILES)
    assert not [path for path in trained.rglob(".*")], "a temporary file was left behind"


def test_stopped_half_way_it_goes_on_bit_equal(trained, micro, tmp_path):
    console = Console(quiet=True)
    train(micro(), tmp_path, console=console, stop_at=13)  # between two saves
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 14))
    assert not same_model(tmp_path, trained)
    train(micro(), tmp_path, console=console)
    assert same_model(tmp_path, trained)


def started(workdir, world):
    """The real command in its own process; it saves at every step, so that there is time to end it between two."""
    command = [
        sys.executable,
        "-m",
        "hyperseg_jax.train",
        "--config",
        str(TESTS / "micro_config.py"),
        "--workdir",
        str(workdir),
        f"--config.data.root={world}",
        "--config.train.save_every=1",
    ]
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(TESTS.parent)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def await_step(process, workdir, step, folder=None):
    """Until the metrics have come to a step, or a checkpoint is whole."""
    while process.poll() is None:
        if folder.exists() if folder else any(line["step"] >= step for line in lines(workdir)):
            return
        time.sleep(0.005)
    pytest.fail(f"ended before step {step}: {process.communicate()[1][-2000:]}")


def test_killed_and_interrupted_it_goes_on_bit_equal(trained, world, tmp_path):
    killed = started(tmp_path, world)
    await_step(killed, tmp_path, 10, tmp_path / "checkpoints" / "10")
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    stopped = started(tmp_path, world)
    await_step(stopped, tmp_path, 17)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate()[1]
    assert stopped.returncode == 0, said[-2000:]
    assert "resuming at step 1" in said and "the same command goes on from here" in said

    last = started(tmp_path, world)
    assert "resuming at step" in last.communicate()[1] and last.returncode == 0
    assert same_model(tmp_path, trained)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, STEPS + 1))
    clean = lambda line: {k: v for k, v in line.items() if k not in ("steps_per_second", "goodput", "seconds")}
    assert list(map(clean, lines(tmp_path))) == list(map(clean, lines(trained)))
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds[0]["lost"] == 0 < seconds[-1]["lost"], "the steps since the checkpoint were done twice"
    assert all(after["start"] >= before["start"] for before, after in itertools.pairwise(seconds))


def test_a_step_that_compiles_again_is_caught():
    step = jax.jit(lambda x: x + 1)
    step(jnp.zeros(2))
    loop.check_compilations(step, 1)
    step(jnp.zeros(2))
    loop.check_compilations(step, 1)
    step(jnp.zeros(3))
    with pytest.raises(RuntimeError, match="compiled 2 times for 1 buckets"):
        loop.check_compilations(step, 1)


def test_the_loop_itself_looks_for_recompilation(micro, tmp_path, monkeypatch):
    """A batch whose shape changes at step 3 ends the run."""
    cut = lambda batch: {**batch, "layout": {name: value[:, :-1] for name, value in batch["layout"].items()}}

    class Growing(loop.Stream):
        count = 0

        def __next__(self):
            self.count += 1
            batch = super().__next__()
            return cut(batch) if self.count == 3 else batch

    def loss(model, config):
        of = lambda params, batch, key: (sum(x.sum() for x in jax.tree.leaves(params)) * batch["layout"]["mask"].shape[1], {})
        return of

    system = loop.systems.get("hyperseg")
    monkeypatch.setattr(loop.systems, "get", lambda _: dataclasses.replace(system, loss=loss))
    monkeypatch.setattr(loop, "Stream", Growing)
    with pytest.raises(RuntimeError, match="compiled 2 times for 1 buckets"):
        train(micro(), tmp_path, console=Console(quiet=True), stop_at=4)


def test_a_workdir_of_another_config_names_the_fields(trained, micro):
    with pytest.raises(UserError, match=r"another config \(model\.num_queries: 4 there, 5 here\)"):
        train(micro(model__num_queries=5), trained)
    with pytest.raises(UserError, match=r"train\.batch_size: 2 there, 4 here"):
        train(micro(train__batch_size=4), trained)


def test_a_finished_run_stays_as_it_is(trained, micro, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert train(micro(), workdir, console=Console(quiet=True)) == workdir / "model"
    assert (workdir / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    assert same_model(workdir, trained)


def test_lines_after_the_checkpoint_and_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"kind": "train", "step": step, "task": "a", "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join([*rows, '{"kind": "tr']))
    with Observers(tmp_path, start=2, steps=5, console=Console(quiet=True), timer=Clock()) as observers:
        observers.losses(3, "a", {"loss": 0.5}, 0.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=300)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Observers(tmp_path, start=0, steps=60, console=console, timer=Clock()) as observers:
        observers.losses(1, "a", {"loss": 1.0}, 0.0)
        observers.tell()
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        try:
            for step in range(2, 40):
                observers.losses(step, "a", {"loss": 1.0}, 0.0)
                observers.tell()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        observers.losses(40, "a", {"loss": 1.0}, 0.0)
    assert console.export_text().count("metrics cannot be written (File too large)") == 1
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps[0] == 1 and steps[-1] == 40


def test_a_profile_of_chosen_steps_lands_in_the_tensorboard_folder(tmp_path):
    written = lambda: [path for path in (tmp_path / "tensorboard").rglob("*.xplane.pb")]
    with Observers(tmp_path, start=0, steps=9, console=Console(quiet=True), timer=Clock(), profiled=(3, 4)) as observers:
        for step in range(1, 7):
            observers.profile(step)
            jnp.arange(3).block_until_ready()
            assert len(written()) == (step > 4)
    assert written()[0].relative_to(tmp_path / "tensorboard").parts[:2] == ("plugins", "profile")


@pytest.mark.slow
def test_mixed_batches_cut_to_their_length_train_in_one_program(micro, tmp_path):
    """All tasks together; the loop itself asserts the one program."""
    config = micro(
        ("referring", "panoptic", "region", "video", "chat"),
        data__batches="mixed",
        data__cuts=(150,),
        train__batch_size=8,
        train__steps=12,
        train__eval_every=12,
    )
    console = Console(record=True, file=io.StringIO(), width=200)
    train(config, tmp_path, console=console, stop_at=5)
    train(config, tmp_path, console=console)
    steps = lines(tmp_path)
    assert {line["task"] for line in steps} == {"mixed"} and len(steps) == 12
    for kind in ("text", "expression", "class", "region", "mask"):
        assert np.isfinite(values := [line[kind] for line in steps]).all() and max(values) > 0, kind
    assert np.mean([line["text"] for line in steps[-3:]]) < steps[0]["text"]
    assert {line["task"] for line in lines(tmp_path, "validation")} == {"referring", "panoptic", "region", "video"}
    assert "after cuts" in console.export_text()
