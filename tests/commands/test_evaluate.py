"""hyperseg evaluate writes the scores of a workdir's validation, with controls."""

import json
import shutil

import pytest

from hyperseg_jax.commands.main import main
from hyperseg_jax.data import sources
from hyperseg_jax.training.observers import read_valid_lines


def test_scores_of_a_workdir(trained, world, tmp_path, capsys):
    main(["evaluate", "--model", str(trained), "--limit", "4", "--data-root", str(world), "--out", str(tmp_path / "out")])
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["referring"]
    (last,) = (line for line in list(read_valid_lines(trained / "metrics.jsonl")) if line["kind"] == "validation")
    assert scores["count"] == last["count"]
    assert abs(scores["ciou"] - last["ciou"]) < 1e-3
    assert {"ciou_shuffled", "ciou_blind"} <= scores.keys()
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 1000
    assert "referring" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("folder", "/etc", "val.folder = '/etc'"),
        ("folder", "etc", "val.folder = 'etc'"),
        ("folder", "{root}/../x", "val.folder = '{root}/../x'"),
        ("folder", "gs://bucket/x", "val.folder = 'gs://bucket/x'"),
        ("split", "../x", "val.split = '../x'"),
        ("refs_path", "x", "val.refs_path = 'x'"),
        ("split", "/x", "val.split = '/x'"),
        (None, "", "data.root = "),
    ],
)
def test_model_configs_cannot_name_files(zero_model, world, tmp_path, capsys, field, value, words):
    shutil.copytree(zero_model / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    if field:
        config["data"]["tasks"]["referring"]["val"][field] = value
    file.write_text(json.dumps(config))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--model", str(tmp_path), *(["--data-root", str(world)] if field else [])])
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and messages.count("\n") == 1
    assert str(file) in messages and words in messages and "--data-root" in messages


def test_only_the_chosen_tasks_are_opened(zero_model, world, tmp_path, monkeypatch):
    """Each of a hundred other tasks could read a large file."""
    shutil.copytree(zero_model / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    others = {f"t{k}": config["data"]["tasks"]["referring"] for k in range(3)}
    config["data"]["tasks"] = {**others, **config["data"]["tasks"]}
    file.write_text(json.dumps(config))
    opened, read = [], sources.open_reader
    monkeypatch.setattr(sources, "open_reader", lambda where, *rest: opened.append(where) or read(where, *rest))
    main(["evaluate", "--model", str(tmp_path), "--tasks", "t1", "--limit", "1", "--data-root", str(world)])
    assert set(opened) == {"data.tasks.t1"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("system", "yolo", "system = 'yolo' is not known"),
        ("data/buckets", None, "data: invalid for system hyperseg (\"'buckets'\")"),
        ("data/tasks/referring/train", None, "data.tasks.referring: ratio 8 needs a `train` block"),
        ("data/toy", {"log": 1}, "data.toy: 'log': no such field"),
        ("data/toy", {"compositional": 10**9}, "data.toy.compositional = 1000000000"),
        ("data/toy", None, "data.toy: is missing, but a task reads the toy world"),
        ("data/toy", {"level": "\x1b[31m"}, r"data.toy: level='\x1b[31m' is unknown"),
    ],
)
def test_invalid_fields_name_the_config_of_the_model(zero_model, tmp_path, monkeypatch, capsys, path, value, words):
    monkeypatch.setenv("HYPERSEG_CACHE", str(tmp_path / "cache"))
    shutil.copytree(zero_model / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["data"]["root"] = ""
    *parents, last = path.split("/")
    block = config
    for name in parents:
        block = block[name]
    if value is None:
        block.pop(last)
    else:
        block[last] = value
    file.write_text(json.dumps(config))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--model", str(tmp_path), "--limit", "1"])
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and messages.count("\n") == 1, messages
    assert messages.startswith(f"error: {file}: ") and words in messages
    assert not list((tmp_path / "cache").glob("toy*"))


def test_bad_records_are_excluded_from_the_controls(trained, world, tmp_path, capsys):
    """The first image, with three expressions, is unreadable; the second has no segments."""
    shutil.copytree(world, tmp_path / "world")
    notes = tmp_path / "world" / "coco" / "annotations"
    first, second = sorted((tmp_path / "world" / "coco" / "val").iterdir())[:2]
    first.write_bytes(b"")
    (notes / "panoptic_val" / f"{second.stem}.png").unlink()
    out = ["--data-root", str(tmp_path / "world"), "--out", str(tmp_path / "out")]
    main(["evaluate", "--model", str(trained), "--limit", "4", *out])
    scores, messages = json.loads((tmp_path / "out" / "scores.json").read_text())["referring"], capsys.readouterr().err
    assert scores["unread"] == 3 and {"ciou_shuffled", "ciou_blind"} <= scores.keys()
    assert "3 of 4 validation records could not be read" in messages
    assert "2 images could not be read and are not part of the text-blind baseline; the first: image 0: " in messages
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--model", str(trained), "--limit", "1", *out])
    assert ended.value.code == 2 and "none of the requested records can be read" in capsys.readouterr().err
