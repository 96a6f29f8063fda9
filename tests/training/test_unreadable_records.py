"""What cannot be read is counted, named, and ends a run where it is too much."""

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
from hyperseg_jax.training.observers import read_metrics
from hyperseg_jax.training.unreadable_records import UnreadableRecords
from hyperseg_jax.training.workdir import Workdir


@pytest.fixture
def account(tmp_path):
    """account(faults, **fields) and the lines that it told."""
    said = []

    def make(faults, **fields):
        given = {"share": 0.01, "batch_size": 10, "start": 0, "bad": 0, **fields}
        return UnreadableRecords(faults, workdir=Workdir(tmp_path), log=said.append, **given)

    return make, said


def test_a_few_are_told_once_and_all_are_named(account, tmp_path):
    make, said = account
    faults = [(7, "a record 3: x.jpg: cannot be read")]
    bad = make(faults)
    bad.check(1, {"bad": 0})
    assert not said and not (tmp_path / "unreadable_records.txt").exists()
    bad.check(2, {"bad": 1})
    faults.append((3, "b record 9: y.jpg: no such image"))
    bad.check(3, {"bad": 2})
    assert said == [
        "1 of 20 training records could not be read and are ignored; the first: a record 3: x.jpg: cannot be "
        f"read. Training continues; all are listed in {tmp_path}/unreadable_records.txt"
    ]
    bad.write()
    assert (tmp_path / "unreadable_records.txt").read_text() == (
        "3\tb record 9: y.jpg: no such image\n7\ta record 3: x.jpg: cannot be read\n"
    )
    again = make([(31, "a record 3: x.jpg: cannot be read")], start=3, bad=2)  # a resumed run keeps the names
    again.check(4, {"bad": 3})
    again.write()
    assert len((tmp_path / "unreadable_records.txt").read_text().splitlines()) == 3 and len(said) == 1


def test_too_many_end_the_run(account):
    make, _ = account
    faults = [(0, "a record 3: x.jpg: cannot be read")]
    make(faults).check(1, {"bad": 10})  # ten of the first ten
    with pytest.raises(
        UserError, match=r"11 of 20 .*the first: a record 3: x\.jpg.*or raise data\.max_unreadable_share, which is 0\.01"
    ):
        make(faults).check(2, {"bad": 11})
    make(faults).check(200, {"bad": 20})  # one in a hundred
    with pytest.raises(UserError, match="21 of 2000"):
        make(faults).check(200, {"bad": 21})
    with pytest.raises(UserError, match="1 of 20000"):
        make(faults, share=0.0).check(2000, {"bad": 1})
    make(faults, start=2000).check(2002, {"bad": 10})
    with pytest.raises(UserError, match="11 of 20020"):  # the disk is gone
        make(faults, start=2000).check(2002, {"bad": 11})


def damage(world, folder, which):
    root = shutil.copytree(world, folder)
    for k, path in enumerate(sorted((root / "coco" / "train").iterdir())):
        if which(k):
            path.write_bytes(path.read_bytes()[:200])
    return root


def test_a_run_on_damaged_images_goes_on_and_counts_them(small_system, micro, world, tmp_path):
    root = damage(world, tmp_path / "world", lambda k: k == 5)
    config = micro(data__root=str(root), train__steps=12, train__eval_every=12)
    for path in sorted((root / "coco" / "val").iterdir())[:1]:
        path.write_bytes(path.read_bytes()[:200])
    console = Console(record=True, file=(tmp_path / "console").open("w"), width=300)
    train(config, tmp_path / "run", console=console, stop_at=7)
    train(config, tmp_path / "run", console=console)
    steps = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    counts = [int(line["bad"]) for line in steps]
    assert len(counts) == 12 and counts == sorted(counts) and 0 < counts[-1] <= 3
    named = (tmp_path / "run" / "unreadable_records.txt").read_text().splitlines()
    assert len(named) == counts[-1] and all("cannot be read as an image" in line for line in named)
    at = int(named[0].split("\t")[0])
    assert counts[at // 2] == 1 and (at < 2 or counts[at // 2 - 1] == 0)  # two elements a step
    assert all(line["loss"] > 0 for line in steps) and steps[-1]["skipped"] == 0
    told = console.export_text()
    assert told.count("training records could not be read and are ignored") == 1
    assert "validation records could not be read and are not scored; the first: record 0: " in told
    scores = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "validation"][-1]
    assert 1 <= scores["unread"] < 4 and scores["count"] >= 1  # of four records; those of an image stand side by side


def test_a_world_of_damaged_images_ends_the_run_before_its_first_step(small_system, micro, world, tmp_path):
    root = damage(world, tmp_path / "world", lambda k: True)
    with pytest.raises(UserError, match=r"tasks\.referring\.train: none .* can be read: record .*\.jpg: cannot be read as"):
        train(micro(data__root=str(root)), tmp_path / "run", console=Console(quiet=True))


def test_the_share_is_checked(micro, tmp_path):
    with pytest.raises(UserError, match=r"data\.max_unreadable_share = 1\.5: give a share"):
        train(micro(data__max_unreadable_share=1.5), tmp_path)


def test_every_shipped_config_says_how_much(micro):
    assert all(configs.load(name).data.max_unreadable_share == 0.01 for name in ("tiny", "hyperseg_3b", "hyperseg_3b_full"))


@pytest.mark.parametrize("content", ["pipe", "endless", "folder", "large"])
def test_what_is_no_list_of_bad_records_is_put_aside(account, tmp_path, content):
    make, said = account
    path = tmp_path / "unreadable_records.txt"
    fuzz.placed(path, content)
    if content == "large":
        os.truncate(path, unreadable_records.MAX_BYTES + 1)
    jax.devices()  # their first use takes memory
    with fuzz.bounded(seconds=20):
        make([(3, "x.jpg")], start=3, bad=1).write()
    assert len(said) == 1 and "unreadable_records.txt.damaged-0: was not a list of unreadable records (" in said[0]
    assert path.read_text() == "3\tx.jpg\n"


def test_odd_lines_of_bad_records_are_left_out(account, tmp_path):
    make, said = account
    path = tmp_path / "unreadable_records.txt"
    odd = f"\u00b2\ta\n{'9' * 19}\tb\n{'9' * 5000}\tc\n-1\td\n5\te\x1b[2J\n7\t{'x' * 10**5}\n".encode()
    path.write_bytes(b"\xff\xfe\tz\n" + odd + b"8\t\xff\n")
    named = make([], start=3, bad=1)._reasons
    assert list(named) == [5, 7, 8] and named[5] == "e\\x1b[2J" and len(named[7]) < 2000 and not said
