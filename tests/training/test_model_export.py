"""The model of a run that has not finished is written from one of its checkpoints."""

import json
import shutil
import threading

import fsspec
import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.training import model_export
from hyperseg_jax.training.background import BackgroundWriter
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.model_export import write_model
from hyperseg_jax.weights import exporting, model_folder

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


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """f(*arguments): runs export-weights with another writer, and returns the arrays that are exported."""
    arrays = []

    def export(source, out, **options):
        arrays.append(model_folder.read_arrays(model_folder.find_model_folder(source)))
        return exporting.ExportReport(out, len(arrays[-1]), {}, merged=False)

    def run(*arguments):
        main(["export-weights", *map(str, arguments), "--out", str(tmp_path / "out")])
        return arrays.pop()

    monkeypatch.setattr(exporting, "export_weights", export)
    return run


def test_the_newest_parameters_of_a_continued_run_are_exported(small_system, micro, tmp_path, exported, capsys):
    """Its model stays until the new end of the run."""
    run, console = tmp_path / "run", Console(quiet=True)
    train(micro(train__steps=4), run, console=console)
    output = exported(run), capsys.readouterr().out
    assert "run/model: the model of step 4" in " ".join(output[1].split())
    train(micro(train__steps=STEPS), run, console=console, stop_at=10)
    (run / "tokenizer.json").unlink()  # earlier versions wrote it only to the model
    newest, printed = exported(run), capsys.readouterr().out
    assert "exporting the checkpoint of step 10" in " ".join(printed.split())
    assert write_model(run, tmp_path / "model") == 10
    expected = model_folder.read_arrays(tmp_path / "model")
    assert all(np.array_equal(newest[path], expected[path]) for path in expected)
    assert any(not np.array_equal(newest[path], output[0][path]) for path in expected)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (run / "model" / "tokenizer.json").read_bytes()


def test_a_run_in_a_bucket_is_exported_from_a_checkpoint(exported, zero_model, monkeypatch, capsys):
    def write(workdir, out, *, step, log):
        assert (workdir, step) == ("gs://name/run", None)
        shutil.copytree(zero_model / "model", out)
        return 7

    monkeypatch.setattr(model_export, "write_model", write)
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda name: None)  # the client of the bucket need not be installed
    assert exported("gs://name/run") and "exporting the checkpoint of step 7" in capsys.readouterr().out


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
    assert messages == [
        "the sheet was not written (images.png: No space left on device); training continues; free disk space or fix the folder"
    ]


def test_a_call_that_has_not_started_is_replaced_by_a_newer_one():
    """A slow upload is not repeated for each step in between."""
    written, gate = [], threading.Event()
    with BackgroundWriter(print) as writer:
        writer.submit("the copy", gate.wait)
        for number in range(5):
            writer.submit("the copy", written.append, number)
        writer.submit("the sheet", written.append, "sheet")
        gate.set()
    assert written == [4, "sheet"]
