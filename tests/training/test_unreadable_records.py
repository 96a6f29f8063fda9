"""Unreadable records are counted, logged, and abort a run above the threshold."""

import os
import shutil

import fuzz
import jax
import pytest
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.training import unreadable_records
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.training.unreadable_records import UnreadableRecords
from hyperseg_jax.training.workdir import Workdir


@pytest.fixture
def make_account(tmp_path):
    """account(errors, **fields), and its log messages."""
    messages = []

    def make(errors, **fields):
        kwargs = {"share": 0.01, "batch_size": 10, "start": 0, "bad": 0, **fields}
        return UnreadableRecords(errors, workdir=Workdir(tmp_path), log=messages.append, **kwargs)

    return make, messages


def test_records_are_reported_once_and_all_are_logged(make_account, tmp_path):
    make, output = make_account
    errors = [(7, "a record 3: x.jpg: cannot be read")]
    bad = make(errors)
    bad.check(1, {"bad": 0})
    assert not output and not (tmp_path / "unreadable_records.txt").exists()
    bad.check(2, {"bad": 1})
    errors.append((3, "b record 9: y.jpg: no such image"))
    bad.check(3, {"bad": 2})
    assert output == [
        "1 of 20 training records could not be read and are ignored; the first: a record 3: x.jpg: cannot be "
        f"read. Training continues; all are listed in {tmp_path}/unreadable_records.txt"
    ]
    bad.write()
    assert (tmp_path / "unreadable_records.txt").read_text() == (
        "3\tb record 9: y.jpg: no such image\n7\ta record 3: x.jpg: cannot be read\n"
    )
    repeated = make([(31, "a record 3: x.jpg: cannot be read")], start=3, bad=2)  # a resumed run keeps the records
    repeated.check(4, {"bad": 3})
    repeated.write()
    assert len((tmp_path / "unreadable_records.txt").read_text().splitlines()) == 3 and len(output) == 1


def test_too_many_abort_the_run(make_account):
    make, _ = make_account
    errors = [(0, "a record 3: x.jpg: cannot be read")]
    make(errors).check(1, {"bad": 10})  # ten of ten
    with pytest.raises(
        UserError, match=r"11 of 20 .*the first: a record 3: x\.jpg.*or raise data\.max_unreadable_share, which is 0\.01"
    ):
        make(errors).check(2, {"bad": 11})
    make(errors).check(200, {"bad": 20})  # one in a hundred
    with pytest.raises(UserError, match="21 of 2000"):
        make(errors).check(200, {"bad": 21})
    with pytest.raises(UserError, match="1 of 20000"):
        make(errors, share=0.0).check(2000, {"bad": 1})
    make(errors, start=2000).check(2002, {"bad": 10})
    with pytest.raises(UserError, match="11 of 20020"):  # the disk is lost
        make(errors, start=2000).check(2002, {"bad": 11})


def damage(world, folder, which):
    root = shutil.copytree(world, folder)
    for k, path in enumerate(sorted((root / "coco" / "train").iterdir())):
        if which(k):
            path.write_bytes(path.read_bytes()[:200])
    return root


def test_a_run_with_damaged_images_continues_and_counts_them(small_system, micro, world, tmp_path):
    root = damage(world, tmp_path / "world", lambda k: k == 5)
    config = micro(data__root=str(root), train__steps=12, train__eval_every=12)
    for path in sorted((root / "coco" / "val").iterdir())[:1]:
        path.write_bytes(path.read_bytes()[:200])
    console = Console(record=True, file=(tmp_path / "console").open("w"), width=300)
    train(config, tmp_path / "run", console=console, stop_at=7)
    train(config, tmp_path / "run", console=console)
    steps = [line for line in list(read_valid_lines(tmp_path / "run" / "metrics.jsonl")) if line["kind"] == "train"]
    counts = [int(line["bad"]) for line in steps]
    assert len(counts) == 12 and counts == sorted(counts) and 0 < counts[-1] <= 3
    logged = (tmp_path / "run" / "unreadable_records.txt").read_text().splitlines()
    assert len(logged) == counts[-1] and all("cannot be read as an image" in line for line in logged)
    at = int(logged[0].split("\t")[0])
    assert counts[at // 2] == 1 and (at < 2 or counts[at // 2 - 1] == 0)  # two elements per step
    assert all(line["loss"] > 0 for line in steps) and steps[-1]["skipped"] == 0
    messages = console.export_text()
    assert messages.count("training records could not be read and are ignored") == 1
    assert "validation records could not be read and are not scored; the first: record 0: " in messages
    scores = [line for line in list(read_valid_lines(tmp_path / "run" / "metrics.jsonl")) if line["kind"] == "validation"][-1]
    assert 1 <= scores["unread"] < 4 and scores["count"] >= 1  # of four records; records of one image are adjacent


def test_only_damaged_images_abort_the_run_before_the_first_step(small_system, micro, world, tmp_path):
    root = damage(world, tmp_path / "world", lambda k: True)
    with pytest.raises(UserError, match=r"tasks\.referring\.train: none .* can be read: record .*\.jpg: cannot be read as"):
        train(micro(data__root=str(root)), tmp_path / "run", console=Console(quiet=True))


def test_the_threshold_is_validated(micro, tmp_path):
    with pytest.raises(UserError, match=r"data\.max_unreadable_share = 1\.5: give a share"):
        train(micro(data__max_unreadable_share=1.5), tmp_path)


def test_every_shipped_config_has_a_threshold(micro):
    assert all(configs.load(name).data.max_unreadable_share == 0.01 for name in ("tiny", "hyperseg_3b", "hyperseg_3b_full"))


@pytest.mark.parametrize("content", ["pipe", "endless", "folder", "large"])
def test_invalid_record_lists_are_moved_aside(make_account, tmp_path, content):
    make, output = make_account
    path = tmp_path / "unreadable_records.txt"
    fuzz.write_content(path, content)
    if content == "large":
        os.truncate(path, unreadable_records.MAX_BYTES + 1)
    jax.devices()  # the first use allocates memory
    with fuzz.limit_resources(seconds=20):
        make([(3, "x.jpg")], start=3, bad=1).write()
    assert len(output) == 1 and "unreadable_records.txt.damaged-0: was not a list of unreadable records (" in output[0]
    assert path.read_text() == "3\tx.jpg\n"


def test_invalid_lines_of_record_lists_are_ignored(make_account, tmp_path):
    make, output = make_account
    path = tmp_path / "unreadable_records.txt"
    odd = f"\u00b2\ta\n{'9' * 19}\tb\n{'9' * 5000}\tc\n-1\td\n5\te\x1b[2J\n7\t{'x' * 10**5}\n".encode()
    path.write_bytes(b"\xff\xfe\tz\n" + odd + b"8\t\xff\n")
    logged = make([], start=3, bad=1)._reasons
    assert list(logged) == [5, 7, 8] and logged[5] == "e\\x1b[2J" and len(logged[7]) < 2000 and not output
