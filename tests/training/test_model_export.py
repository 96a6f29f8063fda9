"""The model of a run that has not finished is written from one of its checkpoints."""

import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.training.background import BackgroundWriter
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.model_export import write_model
from hyperseg_jax.weights import model_folder

STEPS = 20


@pytest.fixture
def stopped(small_system, micro, tmp_path):
    """The workdir of a run that was stopped at step 13 of STEPS."""
    train(micro(train__steps=STEPS), tmp_path / "run", console=Console(quiet=True), stop_at=13)
    return tmp_path / "run"


def edit_config(run, name, block):
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: block}))


def list_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_model_of_a_checkpoint_is_the_model_of_the_run(stopped, small_system, micro, tmp_path):
    assert not (stopped / "model").exists()
    (stopped / "checkpoints" / ".probe-of-a-run").write_text("")  # of a run that is saving
    (stopped / "checkpoints" / "15.orbax-checkpoint-tmp-1").mkdir()
    before = list_files(stopped)
    assert write_model(stopped, tmp_path / "newest") == 13 and write_model(stopped, tmp_path / "earlier", step=10) == 10
    assert list_files(stopped) == before
    newest, earlier = (model_folder.read_arrays(tmp_path / name) for name in ("newest", "earlier"))
    assert any(not np.array_equal(newest[path], earlier[path]) for path in newest)
    train(micro(train__steps=STEPS), stopped, console=Console(quiet=True))
    write_model(stopped, tmp_path / "last")
    expected = model_folder.read_arrays(stopped / "model")
    output = model_folder.read_arrays(tmp_path / "last")
    assert output.keys() == expected.keys() and all(np.array_equal(output[path], expected[path]) for path in expected)
    assert (tmp_path / "last" / "tokenizer.json").read_bytes() == (stopped / "model" / "tokenizer.json").read_bytes()
    assert model_folder.read_config(tmp_path / "last").to_dict() == model_folder.read_config(stopped / "model").to_dict()


def test_commands_name_the_export(stopped, capsys):
    with pytest.raises(
        UserError, match=r"run: its training has not finished.*`hyperseg export-weights .*run --format model` writes"
    ):
        model_folder.find_model_folder(stopped)
    main(["export-weights", str(stopped), "--format", "model"])
    assert "export-model: the model of step 13" in " ".join(capsys.readouterr().out.split())
    assert model_folder.find_model_folder(stopped / "export-model") == stopped / "export-model"
    main(["export-weights", str(stopped), "--format", "model", "--step", "10", "--out", str(stopped / "earlier")])
    assert "earlier: the model of step 10" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoints; give the workdir of a run"),
        (lambda run: (run / "tokenizer.json").unlink(), "tokenizer.json: cannot be read .*; give a workdir of"),
        (lambda run: (run / "config.json").write_text("{}"), "config.json: lacks system"),
        (lambda run: edit_config(run, "optimizer", {}), "lacks optimizer.param_groups, optimizer.betas, optimizer.clip_norm; "),
        (lambda run: edit_config(run, "train", {}), "config.json: lacks train.frozen_type, train.average; give a workdir"),
        (
            lambda run: edit_config(run, "train", {"frozen_type": "12 34"}),
            "train.frozen_type = '12 34': give one of '', 'float",
        ),
        (lambda run: shutil.rmtree(run / "checkpoints" / "13" / "params"), "no checkpoint|is not a readable checkpoint"),
    ],
)
def test_bad_workdirs_are_one_line(stopped, tmp_path, change, why):
    change(stopped)
    with pytest.raises(UserError, match=why):
        write_model(stopped, tmp_path / "out", step=13 if (stopped / "checkpoints").exists() else None)
    assert not (tmp_path / "out").exists()


def test_other_files_are_not_replaced(stopped, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"contains notes\.txt, which would be deleted"):
        write_model(stopped, tmp_path / "out")


def test_files_are_written_in_order_and_failures_are_logged(tmp_path):
    messages, written = [], []

    def fail():
        raise OSError(28, "No space left on device", "images.png")

    with BackgroundWriter(messages.append) as writer:
        writer.submit("the sheet", fail)
        for number in range(3):
            writer.submit("the copy", written.append, number)
            writer.wait()
        writer.submit("the copy", written.append, 3)
    assert written == [0, 1, 2, 3]
    assert messages == ["the sheet was not written (images.png: No space left on device); training continues"]
