"""A run learns, writes its outputs, and resumes after any interruption bit-equal to an uninterrupted run."""

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
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hyperseg_jax.errors import UserError
from hyperseg_jax.training import checks, loop
from hyperseg_jax.training.dispatch import StepsInFlight
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.weights import model_folder

STEPS = 30
TESTS = pathlib.Path(__file__).parents[1]


def read_lines(workdir, kind="train"):
    return [line for line in list(read_valid_lines(workdir / "metrics.jsonl")) if line["kind"] == kind]


def models_are_equal(one, other):
    arrays = [model_folder.read_arrays(workdir / "model") for workdir in (one, other)]
    assert arrays[0].keys() == arrays[1].keys()
    return all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_a_run_learns(trained):
    losses = [line["loss"] for line in read_lines(trained)]
    texts = [line["text"] for line in read_lines(trained)]
    assert np.isfinite(losses).all() and read_lines(trained)[-1]["skipped"] == 0
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert np.mean(texts[-5:]) < 0.8 * np.mean(texts[:3])


def test_outputs_of_a_run(trained, world):
    assert [line["step"] for line in read_lines(trained)] == list(range(1, STEPS + 1))
    (scores,) = read_lines(trained, "validation")
    assert scores["task"] == "referring" and scores["step"] == STEPS and 0 <= scores["ciou"] <= 1
    for name in ("loss.png", "gates.png", "predictions.png"):
        with Image.open(trained / name) as image:
            assert min(image.size) > 100 and len(set(image.convert("L").resize((64, 64)).getdata())) > 10
    assert json.loads((trained / "config.json").read_text())["data"]["root"] == str(world)
    assert sum(path.stat().st_size for path in (trained / "tensorboard").iterdir()) > 1000
    saved = {path.name for path in (trained / "checkpoints").iterdir()}
    assert saved == {str(STEPS - 5), str(STEPS), "frozen"}
    assert sorted(path.name for path in (trained / "model").iterdir()) == sorted(model_folder.FILES)
    assert [path.name for path in trained.rglob(".*")] == [".lock"], "a temporary file was left behind"


def test_resume_from_an_earlier_checkpoint_is_bit_equal(trained, micro, tmp_path):
    """With the complete model; stops and kills are tested below, with a small one."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    shutil.rmtree(workdir / "model")
    train(micro(), workdir, console=Console(quiet=True))
    assert models_are_equal(workdir, trained)
    assert list(map(without_times, read_lines(workdir))) == list(map(without_times, read_lines(trained)))


def test_resume_after_a_stop_between_saves_is_bit_equal(small_system, micro, tmp_path):
    full, run, console = tmp_path / "whole", tmp_path / "run", Console(quiet=True)
    train(micro(), full, console=console)
    train(micro(), run, console=console, stop_at=13)
    assert [line["step"] for line in read_lines(run)] == list(range(1, 14)) and not (run / "model").exists()
    train(micro(), run, console=console)
    assert models_are_equal(run, full)


def test_resume_inside_an_interval_gives_the_same_means(small_system, micro, tmp_path):
    """Two tasks, intervals of five steps; stopped at step seven."""
    config = micro(("referring", "region"), train__log_every=5, data__tasks__region__ratio=8)
    console = Console(quiet=True)
    train(config, tmp_path / "whole", console=console, stop_at=10)
    for stop_at in (7, 10):
        train(config, tmp_path / "stopped", console=console, stop_at=stop_at)
    messages = read_lines(tmp_path / "whole")
    assert [line["step"] for line in messages] == [5, 5, 10, 10]
    assert sum(line["steps"] for line in messages) == 10 and {line["task"] for line in messages} == {"referring", "region"}
    assert list(map(without_times, read_lines(tmp_path / "stopped"))) == list(map(without_times, messages))


def without_times(line):
    """Returns a line of metrics without the fields that differ between runs."""
    return {name: value for name, value in line.items() if name not in ("steps_per_second", "goodput", "seconds")}


def test_the_first_step_of_a_program_counts_as_compilation(small_system, micro, tmp_path, monkeypatch):
    """For each task; its time counts as compilation, and its begin and end are reported. Every step limits how far the host
    runs ahead."""
    dispatched = []
    monkeypatch.setattr(StepsInFlight, "add", lambda self, outputs: dispatched.append(outputs))
    console = Console(record=True, file=io.StringIO(), width=200)
    train(micro(("referring", "region"), data__tasks__region__ratio=8), tmp_path, console=console, stop_at=6)
    messages, compiled = console.export_text(), set()
    for line in read_lines(tmp_path):
        assert ("steps_per_second" in line) == (line["task"] in compiled), line
        compiled.add(line["task"])
    for task in compiled:
        output = messages.index(f"compiling the train step of {task}"), messages.index(f"compiled the train step of {task} in ")
        assert output[0] < output[1]
    assert len(dispatched) == 6
    assert compiled == {"referring", "region"} and read_lines(tmp_path)[-1]["seconds"]["compile"] > 0


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
        ({"train__steps": 2**30}, r"train\.steps = 1073741824 batches of .* give at most 2147483647 examples in total"),
        ({"init_from": "tiny"}, r"tiny: does not match the config"),
        (
            {"model__precision__compute": "int8"},
            r"model: invalid for system hyperseg .*precision\.compute = 'int8': use float32",
        ),
    ],
)
def test_invalid_configs_write_nothing(small_system, micro, tmp_path, monkeypatch, fields, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        train(micro(**fields), "run", console=Console(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "best, words",
    [
        ("referring/cio", r"no score 'cio'; did you mean ciou\? use one of ciou, giou"),
        ("referring/pq", "no score 'pq'"),
        ("refering/ciou", r"train\.best = 'refering/ciou'.*referring"),
    ],
)
def test_unknown_best_scores_are_rejected_at_the_start(small_system, micro, tmp_path, best, words):
    with pytest.raises(UserError, match=words):
        train(micro(train__best=best), tmp_path / "run", console=Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_training_lines_have_the_declared_names(trained, micro):
    messages = set(read_lines(trained)[-1]) - {"kind", "step", "task", "steps", "seconds"}
    assert messages <= (known := set(checks.train_metric_names(micro()))) and known - messages == {"mfu"}


def start_training(workdir, world, **environment):
    """Starts the command in its own process, with a small model; it sleeps at every step, which gives time to stop it between
    two steps."""
    notes = workdir.with_name("rows")
    notes.mkdir(exist_ok=True)
    command = [
        sys.executable,
        str(TESTS / "training" / "train_worker.py"),
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
    """Waits until the metrics reach a step."""
    while process.poll() is None:
        if any(line["step"] >= step for line in read_lines(workdir)):
            return
        time.sleep(0.005)
    pytest.fail(f"ended before step {step}: {process.communicate()[1][-2000:]}")


def test_resume_after_kill_and_interrupt_is_bit_equal(small_system, micro, world, tmp_path):
    full, run = tmp_path / "whole", tmp_path / "run"
    train(micro(train__log_every=4), full, console=Console(quiet=True))

    killed = start_training(run, world)
    await_step(killed, run, 16)  # after the save of step 15, inside an interval
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    stopped = start_training(run, world)
    await_step(stopped, run, 20)
    stopped.send_signal(signal.SIGINT)
    output = stopped.communicate()[1]
    assert stopped.returncode == 0, output[-2000:]
    assert "resuming at step 1" in output and "run the same command to resume" in output
    assert not (run / "predictions.png").exists() and "loss.png" in output and "predictions.png" not in output

    last = start_training(run, world, TEST_PAUSE="0")
    output = last.communicate()[1]
    assert "resuming at step" in output and last.returncode == 0 and "predictions.png" in output
    assert models_are_equal(run, full)
    assert [line["step"] for line in read_lines(run)] == [4, 8, 12, 16, 20, 24, 28, STEPS]
    assert list(map(without_times, read_lines(run))) == list(map(without_times, read_lines(full)))
    seconds = [line["seconds"] for line in read_lines(run)]
    assert seconds[0]["lost"] == 0 < seconds[-1]["lost"], "the steps since the checkpoint were done twice"
    assert all(after["start"] >= before["start"] for before, after in itertools.pairwise(seconds))


def test_the_loop_detects_recompilation(small_system, micro, tmp_path, monkeypatch):
    """A batch whose shape changes at step 3 is logged and counted, or ends the run."""
    cut = lambda batch: {**batch, "layout": {name: value[:, :-1] for name, value in batch["layout"].items()}}

    class GrowingStream(loop.Stream):
        count = 0

        def __next__(self):
            self.count += 1
            batch = super().__next__()
            return cut(batch) if self.count == 3 else batch

    def loss(model, config):
        size = lambda params: sum(x.sum() for x in jax.tree.leaves(params))
        return lambda params, batch, key, counts: (size(params) * batch["layout"]["mask"].shape[1], {})

    monkeypatch.setattr(loop.systems, "get", lambda _: dataclasses.replace(small_system, loss=loss))
    monkeypatch.setattr(loop, "Stream", GrowingStream)
    console = Console(file=io.StringIO(), width=200)
    train(micro(), tmp_path / "run", console=console, stop_at=4)
    assert console.file.getvalue().count("step 3: the train step of referring was compiled again") == 1
    assert [line.get("recompilations") for line in read_lines(tmp_path / "run")][-2:] == [1, 1]
    with pytest.raises(RuntimeError, match="step 3: the train step of referring was compiled again; keep shapes"):
        train(micro(train__fail_on_recompilation=True), tmp_path / "strict", console=Console(quiet=True), stop_at=4)


def test_a_workdir_of_another_config_names_the_fields(trained, micro):
    with pytest.raises(UserError, match=r"another config \(model\.num_queries: 4 saved, 5 given\)"):
        train(micro(model__num_queries=5), trained)
    with pytest.raises(UserError, match=r"train\.batch_size: 2 saved, 4 given"):
        train(micro(train__batch_size=4), trained)


def test_a_finished_run_stays_as_it_is(trained, micro, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert train(micro(), workdir, console=Console(quiet=True)) == workdir / "model"
    assert (workdir / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    assert models_are_equal(workdir, trained)


def test_a_failed_last_upload_is_an_error(small_system, micro, tmp_path, monkeypatch):
    """The model of a run in a bucket would be lost with the scratch folder."""
    calls = []

    def push(self):
        calls.append(self)
        if len(calls) > 1:  # the first call is that of the start
            raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(loop.Workdir, "push", push)
    with pytest.raises(UserError, match=r"the last save failed \(model\.safetensors: No space left on device\)"):
        train(micro(train__steps=4), tmp_path / "run", console=Console(quiet=True))


@pytest.mark.slow
def test_mixed_batches_cut_to_their_length_train_in_one_program(micro, tmp_path):
    """All tasks in one batch; the loop itself asserts a single program."""
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
    steps = read_lines(tmp_path)
    assert {line["task"] for line in steps} == {"mixed"} and len(steps) == 12
    for kind in ("text", "expression", "class", "region", "mask"):
        assert np.isfinite(values := [line[kind] for line in steps]).all() and max(values) > 0, kind
    assert np.mean([line["text"] for line in steps[-3:]]) < steps[0]["text"]
    assert {line["task"] for line in read_lines(tmp_path, "validation")} == {"referring", "panoptic", "region", "video"}
    assert "in buckets" in console.export_text()
