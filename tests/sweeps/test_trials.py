"""Names, commands, statuses and scores of trials, and their device shares."""

import math
import pathlib

import fuzz
import ml_collections
import pytest

from hyperseg_jax.commands import sweep
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import devices
from hyperseg_jax.sweeps.process import TrainingProcess
from hyperseg_jax.sweeps.trials import Metric, Trial


def make_trial(values, **more):
    return Trial(values, "tiny", ("train.steps=5",), 5, pathlib.Path("/out/trials"), **more)


def test_names_depend_only_on_the_values():
    one = make_trial({"optimizer.learning_rate": "1e-5", "model.lora.rank": "8"})
    assert one.name == "rank=8_learning_rate=1e-5_ad767130"
    assert make_trial({"model.lora.rank": "8", "optimizer.learning_rate": "1e-5"}).name == one.name
    names = [make_trial({"a.rate": value}).name for value in ("1", "2", "../x y", "../x'y", "9" * 300)]
    names.append(make_trial({"b.rate": "1"}).name)
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and not set(name) & set("/ '") for name in names)


def test_command():
    command = make_trial({"optimizer.betas": "(0.9, 0.98)"}, workdirs="gs://b/x").command()
    assert command[1:5] == ["-m", "hyperseg_jax.train", "--config", "tiny"]
    assert command[5] == "--workdir" and command[6].startswith("gs://b/x/betas=")
    assert command[7:] == ["--config.train.steps=5", "--config.optimizer.betas=(0.9, 0.98)"]


def test_metrics_select_their_lines():
    lines = [
        {"kind": "train", "step": 1, "task": "video", "loss": 3.0},
        {"kind": "train", "step": 2, "task": "chat", "loss": 2.0},
        {"kind": "validation", "step": 2, "task": "chat", "loss": 9.0, "ciou": math.nan, "note": "x"},
        {"kind": "validation", "step": 4, "task": "chat", "ciou": 0.5},
    ]
    loss = Metric.parse("train/loss", None)
    assert loss.mode == "min" and loss.scores(lines) == [(1, 3.0), (2, 2.0)] and loss.is_better(1.0, 2.0)
    ciou = Metric.parse("chat/ciou", None)
    assert ciou.mode == "max" and ciou.scores(lines) == [(4, 0.5)] and ciou.is_better(2.0, 1.0)
    assert Metric.parse("chat/note", "min").scores(lines) == []
    with pytest.raises(UserError, match="--metric ciou: give TASK/NAME"):
        Metric.parse("ciou", None)


def test_broken_records_are_named(tmp_path):
    broken = Trial({"a": "1"}, "tiny", (), 5, tmp_path)
    assert broken.status() == "waiting"
    broken.set_status("failed", "no luck")
    assert broken.status() == "failed"
    broken.record.write_text("[]")
    with pytest.raises(UserError, match=r"\.json: cannot be read as the record"):
        broken.status()


def share_environment(*arguments):
    return [str(share) for share in devices.split_devices(*arguments)]


def test_shares_are_equal_and_disjoint():
    assert share_environment("cpu", ("0", "1", "2", "3", "4"), None) == ["cores=0,1", "cores=2,3"]
    assert share_environment("cpu", ("7",), None) == ["cores=7"]
    assert share_environment("gpu", ("2", "5"), None) == ["CUDA_VISIBLE_DEVICES=2", "CUDA_VISIBLE_DEVICES=5"]
    assert share_environment("gpu", ("2", "5"), 2) == ["CUDA_VISIBLE_DEVICES=2,5"]
    bounds = "TPU_CHIPS_PER_PROCESS_BOUNDS=1,2,1 TPU_PROCESS_BOUNDS=1,1,1"
    assert share_environment("tpu", ("0", "1", "2", "3"), 2) == [
        f"TPU_VISIBLE_CHIPS=0,1 {bounds}",
        f"TPU_VISIBLE_CHIPS=2,3 {bounds}",
    ]
    assert share_environment("tpu", ("0", "1", "2", "3"), 4) == [""]  # a full host needs no variables


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("gpu", ("0", "1"), 3), "this machine has 2 GPUs; give 1 to 2"),
        (("tpu", ("0", "1", "2", "3"), 3), "--per-trial 3: a process cannot use 3 TPU chips; give one of 1, 2, 4, 8"),
    ],
)
def test_unavailable_shares_are_rejected(arguments, words):
    with pytest.raises(UserError, match=words):
        devices.split_devices(*arguments)


def test_devices_are_detected_with_jax(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(devices, "PROBE", "print('noise'); print('gpu', 2)")
    assert devices.detect_devices() == ("gpu", ("0", "1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert devices.detect_devices() == ("gpu", ("4", "6"))
    monkeypatch.setattr(devices, "PROBE", "raise SystemExit('no driver')")
    with pytest.raises(UserError, match="JAX finds no devices"):
        devices.detect_devices()


def test_training_scores_are_means_over_all_tasks():
    metric = Metric.parse("train/loss", None)
    row = lambda step, task, loss, steps: {"kind": "train", "step": step, "task": task, "loss": loss, "steps": steps}
    lines = [row(20, "a", 1.0, 15), row(20, "b", 5.0, 5), row(40, "a", 3.0, 20), row(40, "b", float("nan"), 2)]
    assert metric.scores(lines) == [(20, 2.0), (40, 3.0)]


INVALID = ["[]", "{", "[" * 100_000, "pipe", "endless", "folder"]


@pytest.mark.parametrize("content", [*INVALID, '{"status": 5}', '{"status": "odd"}', '{"status": NaN}'])
def test_damaged_records_are_reported_in_one_line(tmp_path, content):
    broken = Trial({"a": "1"}, "tiny", (), 5, tmp_path)
    fuzz.write_content(broken.record, content)
    assert isinstance(fuzz.check_call(broken.status, says="cannot be read as the record"), UserError)


@pytest.mark.parametrize("content", [*INVALID, "{}", '{"config": [1]}', '{"config": {"a": NaN}}'])
def test_a_damaged_sweep_json_is_reported_in_one_line(tmp_path, content):
    fuzz.write_content(tmp_path / "sweep.json", content)
    base = ml_collections.ConfigDict({"a": 1.0})
    assert isinstance(
        fuzz.check_call(lambda: sweep._open_sweep_folder(tmp_path, base, ()), says="give another --out"), UserError
    )


def test_linked_trial_folders_are_refused(tmp_path):
    one = Trial({"a": "1"}, "tiny", (), 5, tmp_path / "out" / "trials")
    one.folder.mkdir(parents=True)
    (one.folder / one.name).symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"out: a=1_\w+ is a link that leaves .*--limits outside=True"):
        sweep._open_sweep_folder(tmp_path / "out", ml_collections.ConfigDict(), (one,))


@pytest.mark.parametrize("content", ["link", "pipe", "endless", "folder"])
def test_logs_are_only_written_to_regular_files(tmp_path, content):
    (odd,) = (Trial({"a": "1"}, "tiny", (), 5, tmp_path / "trials"),)
    odd.folder.mkdir()
    (tmp_path / "other").write_text("other")
    fuzz.write_content(odd.log, content)
    with fuzz.limit_resources(seconds=20):
        assert odd.last_log_line() == "no output"
        with pytest.raises(UserError, match=r"\.log: is not a regular file; remove it"):
            TrainingProcess(odd)
    assert (tmp_path / "other").read_text() == "other"


def test_the_end_of_a_long_log(tmp_path):
    one = Trial({"a": "1"}, "tiny", (), 5, tmp_path)
    with one.log.open("wb") as file:
        file.truncate(2**40)
        file.seek(0, 2)
        file.write(b"x\nerror: \xff\x1b[2J\n\n")
    with fuzz.limit_resources(seconds=60, memory=2**26):
        assert one.last_log_line() == "error: \ufffd\\x1b[2J"


def test_a_linked_lock_fails_the_trial(tmp_path):
    one = Trial({"a": "1"}, "tiny", (), 5, tmp_path)
    one.lock.symlink_to(tmp_path / "other")
    assert TrainingProcess(one).wait() == 1 and f"{one.lock}: cannot be used as the lock of a trial" in one.last_log_line()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("content", ["pipe", "endless", "folder"])
def test_invalid_metrics_logs_have_no_lines(tmp_path, content):
    one = Trial({"a": "1"}, "tiny", (), 5, tmp_path / "trials")
    pathlib.Path(one.workdir).mkdir(parents=True)
    fuzz.write_content(pathlib.Path(one.workdir) / "metrics.jsonl", content)
    with fuzz.limit_resources(seconds=10):
        assert list(one.metric_lines()) == [] and not one.is_complete()


def test_infinite_steps_give_no_score():
    row = lambda task, steps: {"kind": "train", "step": 10, "task": task, "loss": 0.1, "steps": steps}
    assert Metric.parse("train/loss", None).scores([row("a", float("inf")), row("b", 1)]) == []
