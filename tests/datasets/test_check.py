"""The commands hyperseg data check and samples; the table of layouts and its documentation."""

import inspect
import json
import pathlib
import re

import numpy as np
import pytest
from command import run_command
from rich.console import Console

from hyperseg_jax.data import sources
from hyperseg_jax.datasets import layouts
from hyperseg_jax.errors import UserError

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


def test_a_valid_benchmark(samples, capsys):
    code, out, _ = run_command(capsys, "data", "check", "refcocog", "--root", samples)
    assert code == 0
    rows = [re.findall(r"\w+", line) for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["train", "val", "test"] and all(row[-1] == "0" and int(row[1]) > 2 for row in rows)


def test_problems_are_listed_and_bounded(copy_samples, capsys):
    root = copy_samples("gqa")
    (root / "gqa" / "images" / "n0.jpg").unlink()
    path = root / "gqa" / "val_balanced_questions.json"
    path.write_text(path.read_text().replace('"question"', '"[red]"'))
    code, out, _ = run_command(capsys, "data", "check", "gqa", "--root", root, "--split", "val_balanced", "--show", 2)
    lines = [line for line in out.splitlines() if line.startswith(("missing file", "bad record", "val_balanced:"))]
    assert code == 1 and len(lines) == 3 and str(root) in lines[0]
    assert lines[2] == "val_balanced: 7 problems in total: 1 missing file, 6 bad record"
    code, out, _ = run_command(capsys, "data", "check", "gqa", "--root", root, "--split", "testdev_balanced")
    assert code == 1 and "n0.jpg: no such image" in out and "problems in total" not in out


def parse_rows(out):
    return {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if line.startswith("│")}


def test_the_table_counts_splits_of_a_user_folder(copy_samples, capsys):
    folder = copy_samples("yours") / "yours" / "folder"
    path = folder / "captions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][:3]
    write = lambda splits: path.write_text(
        "".join(json.dumps(line | {"split": split}) + "\n" for line, split in zip(lines, splits, strict=True))
    )
    write(["train", "val", "train"])
    code, out, _ = run_command(capsys, "data", "check", "folder", "--root", folder)
    assert code == 0 and {name: int(cells[0]) for name, cells in parse_rows(out).items()} == {"train": 2, "val": 1}
    write(["train", "val", ""])
    with path.open("a") as file:
        file.write("{\n")
    code, out, _ = run_command(capsys, "data", "check", "folder", "--root", folder)
    result = {name: (int(cells[0]), int(cells[-1])) for name, cells in parse_rows(out).items()}
    assert code == 1 and result == {"train": (1, 0), "val": (1, 0), "(no split)": (1, 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mscoco", "--root", "."), "benchmark 'mscoco' is unknown; use one of coco_panoptic"),
        (("gqa", "--root", "none"), "none: no such folder"),
        (("gqa", "--root", ".", "--split", "test"), "--split test: gqa has no such split; use one of train_balanced"),
        (("gqa", "--root", ".", "--show", "-1"), "--show -1: give zero or more"),
    ],
)
def test_invalid_arguments(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(capsys, "data", "check", *arguments)
    assert code == 2 and message in err


def test_samples_from_the_command_line(tmp_path, capsys):
    assert run_command(capsys, "data", "samples", "--out", tmp_path / "new")[0] == 0
    assert run_command(capsys, "data", "check", "folder", "--root", tmp_path / "new" / "yours" / "folder")[0] == 0
    code, _, err = run_command(capsys, "data", "samples", "--out", tmp_path / "new")
    assert code == 2 and "is not empty" in err


def test_the_table_is_documented():
    rows = {line.split("|")[1].strip().strip("`"): line for line in DOCS.read_text().splitlines() if line.startswith("| `")}
    for name, layout in layouts.LAYOUTS.items():
        row = rows[name]
        for path in {path for split in layout.splits for path in layout.paths(split)}:
            assert f"`{path}`" in row, f"docs/data.md: {name} lacks {path}"
        assert all(split in row for split in layout.splits) and layout.source in row
    assert set(layouts.LAYOUTS) <= set(rows)


def test_layout_arguments_exist_in_the_readers():
    for layout in layouts.LAYOUTS.values():
        for split in layout.splits:
            inspect.signature(layout.reader).bind(**layout.files, **layout.split_files.get(split, {}), **layout.options)
    for name, reader in sources.READERS.items():
        assert callable(reader), name


def test_configs_with_a_benchmark_and_a_root(samples, micro):
    """Training records of RefCOCO through the registry, as arrays."""
    config = micro().copy_and_resolve_references()
    with config.unlocked():
        config.data.root = str(samples)
        for part, split in (("train", "train"), ("val", "testB")):
            config.data.tasks.referring[part] = {"name": "refcoco", "split": split, "root": "{root}"}
        config.data.tasks.referring.reader = "benchmark"
    from hyperseg_jax.systems import system as systems

    tasks = sources.build_tasks(config, systems.get("hyperseg"), console=Console(quiet=True))
    task = tasks["referring"]
    arrays = task.prepare(task.train[0], np.random.default_rng(0))
    assert arrays["segments"].any() and arrays["valid"].any() and len(task.val) == len(task.train)
    with config.unlocked():
        config.data.tasks.referring.train["name"] = "refcoco2"
    with pytest.raises(UserError, match="benchmark 'refcoco2' is unknown"):
        sources.build_tasks(config, systems.get("hyperseg"), console=Console(quiet=True))
