"""A run learns, leaves what it promises, and goes on after any end as if it had never ended."""

import dataclasses
import io
import itertools
import json
import os
import pathlib
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
from hyperseg_jax.training import checks, loop
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.observers import read_metrics
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
        with Image.open(trained / name) as image:
            assert min(image.size) > 100 and len(set(image.convert("L").resize((64, 64)).getdata())) > 10
    assert json.loads((trained / "config.json").read_text())["data"]["root"] == str(world)
    assert sum(path.stat().st_size for path in (trained / "tensorboard").iterdir()) > 1000
    assert sorted(int(path.name) for path in (trained / "checkpoints").iterdir()) == [STEPS - 5, STEPS]
    assert sorted(path.name for path in (trained / "model").iterdir()) == sorted(model_folder.FILES)
    assert [path.name for path in trained.rglob(".*")] == [".lock"], "a temporary file was left behind"


def test_from_an_earlier_checkpoint_the_model_ends_bit_equal(trained, micro, tmp_path):
    """The whole model with all its parts; stops and kills of every kind are tried below, with a small one."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    shutil.rmtree(workdir / "model")
    train(micro(), workdir, console=Console(quiet=True))
    assert same_model(workdir, trained)
    assert list(map(untimed, lines(workdir))) == list(map(untimed, lines(trained)))


def test_stopped_between_two_saves_it_goes_on_bit_equal(small_system, micro, tmp_path):
    whole, run, console = tmp_path / "whole", tmp_path / "run", Console(quiet=True)
    train(micro(), whole, console=console)
    train(micro(), run, console=console, stop_at=13)
    assert [line["step"] for line in lines(run)] == list(range(1, 14))
    assert not same_model(run, whole)
    train(micro(), run, console=console)
    assert same_model(run, whole)


def test_stopped_inside_an_interval_its_means_are_the_same(small_system, micro, tmp_path):
    """Two tasks, intervals of five steps; stopped at the seventh."""
    config = micro(("referring", "region"), train__log_every=5, data__tasks__region__ratio=8)
    console = Console(quiet=True)
    train(config, tmp_path / "whole", console=console, stop_at=10)
    for stop_at in (7, 10):
        train(config, tmp_path / "stopped", console=console, stop_at=stop_at)
    told = lines(tmp_path / "whole")
    assert [line["step"] for line in told] == [5, 5, 10, 10]
    assert sum(line["steps"] for line in told) == 10 and {line["task"] for line in told} == {"referring", "region"}
    assert list(map(untimed, lines(tmp_path / "stopped"))) == list(map(untimed, told))


def untimed(line):
    """A line of metrics without what differs from run to run."""
    return {name: value for name, value in line.items() if name not in ("steps_per_second", "goodput", "seconds")}


def test_the_first_step_of_a_program_counts_as_compilation(small_system, micro, tmp_path):
    """Of each task; its time is no step's, and both ends of it are told."""
    console = Console(record=True, file=io.StringIO(), width=200)
    train(micro(("referring", "region"), data__tasks__region__ratio=8), tmp_path, console=console, stop_at=6)
    told, compiled = console.export_text(), set()
    for line in lines(tmp_path):
        assert ("steps_per_second" in line) == (line["task"] in compiled), line
        compiled.add(line["task"])
    for task in compiled:
        said = told.index(f"compiling the train step of {task}"), told.index(f"compiled the train step of {task} in ")
        assert said[0] < said[1]
    assert compiled == {"referring", "region"} and lines(tmp_path)[-1]["seconds"]["compile"] > 0


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data__root": "nowhere"}, "nowhere"),
        ({"data__batches": "nonsense"}, r"data\.batches = 'nonsense': use one of task, mixed"),
        ({"data__tasks__referring__ratio": 0}, r"data\.tasks: the ratios are referring 0; .*at least one above zero"),
        ({"data__batches": "mixed", "data__tasks__referring__ratio": 0}, r"data\.tasks: the ratios are referring 0; "),
        (
            {"optimizer__param_groups": ({"pattern": "first/.*"},)},
            r"no pattern matches second/kernel, stack/kernel of 3 parameters; ",
        ),
        ({"init_from": "tiny"}, r"tiny: does not match the config"),
        (
            {"model__precision__compute": "int8"},
            r"model: invalid for system hyperseg .*precision\.compute = 'int8': use float32",
        ),
    ],
)
def test_nothing_is_written_before_all_of_the_config_fits(small_system, micro, tmp_path, monkeypatch, fields, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        train(micro(**fields), "run", console=Console(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "best, words",
    [
        ("referring/cio", r"no score 'cio'; did you mean ciou\? known scores: ciou, giou"),
        ("referring/pq", "no score 'pq'"),
        ("refering/ciou", r"train\.best = 'refering/ciou'.*referring"),
    ],
)
def test_a_best_score_that_no_validation_has_is_named_before_anything_starts(small_system, micro, tmp_path, best, words):
    with pytest.raises(UserError, match=words):
        train(micro(train__best=best), tmp_path / "run", console=Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_training_lines_hold_the_names_that_are_known_beforehand(trained, micro):
    told = set(lines(trained)[-1]) - {"kind", "step", "task", "steps", "seconds"}
    assert told <= (known := set(checks.train_metrics(micro()))) and known - told == {"mfu"}


def started(workdir, world, **environment):
    """The real command in its own process, with a few matrices in the place of the model; it rests at every step, so that
    there is time to end it between two."""
    notes = workdir.with_name("rows")
    notes.mkdir(exist_ok=True)
    command = [
        sys.executable,
        str(TESTS / "training" / "one_of_many.py"),
        "train",
        "--config",
        str(TESTS / "micro_config.py"),
        "--workdir",
        str(workdir),
        f"--config.data.root={world}",
        "--config.train.save_every=3",
        "--config.train.log_every=4",
    ]
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(TESTS.parent),
        "TEST_ROWS": str(notes),
        "TEST_PAUSE": "0.1",
        **environment,
    }
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def await_step(process, workdir, step):
    """Until the metrics have come to a step."""
    while process.poll() is None:
        if any(line["step"] >= step for line in lines(workdir)):
            return
        time.sleep(0.005)
    pytest.fail(f"ended before step {step}: {process.communicate()[1][-2000:]}")


def test_killed_and_interrupted_it_goes_on_bit_equal(small_system, micro, world, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(micro(train__log_every=4), whole, console=Console(quiet=True))

    killed = started(run, world)
    await_step(killed, run, 16)  # after the save of step 15, inside an interval
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    stopped = started(run, world)
    await_step(stopped, run, 20)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate()[1]
    assert stopped.returncode == 0, said[-2000:]
    assert "resuming at step 1" in said and "run the same command to resume" in said
    assert not (run / "predictions.png").exists() and "loss.png" in said and "predictions.png" not in said

    last = started(run, world, TEST_PAUSE="0")
    said = last.communicate()[1]
    assert "resuming at step" in said and last.returncode == 0 and "predictions.png" in said
    assert same_model(run, whole)
    assert [line["step"] for line in lines(run)] == [4, 8, 12, 16, 20, 24, 28, STEPS]
    assert list(map(untimed, lines(run))) == list(map(untimed, lines(whole)))
    seconds = [line["seconds"] for line in lines(run)]
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


def test_the_loop_itself_looks_for_recompilation(small_system, micro, tmp_path, monkeypatch):
    """A batch whose shape changes at step 3 ends the run."""
    cut = lambda batch: {**batch, "layout": {name: value[:, :-1] for name, value in batch["layout"].items()}}

    class Growing(loop.Stream):
        count = 0

        def __next__(self):
            self.count += 1
            batch = super().__next__()
            return cut(batch) if self.count == 3 else batch

    def loss(model, config):
        size = lambda params: sum(x.sum() for x in jax.tree.leaves(params))
        return lambda params, batch, key, counts: (size(params) * batch["layout"]["mask"].shape[1], {})

    monkeypatch.setattr(loop.systems, "get", lambda _: dataclasses.replace(small_system, loss=loss))
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


@pytest.mark.slow
def test_mixed_batches_cut_to_their_length_train_in_one_program(micro, tmp_path):
    """All tasks together; the loop itself asserts the one program."""
    config = micro(
        ("referring", "panoptic", "region", "video", "chat"),
        data__batches="mixed",
        data__length_buckets=(150,),
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
    assert "in buckets" in console.export_text()
