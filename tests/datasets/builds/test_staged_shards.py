"""Untrusted unfinished builds cannot name other files, and links in them are not followed."""

import hashlib
import json

import pytest
from command import run_command

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.builds.index import INDEX, read_index
from hyperseg_jax.datasets.builds.store import Store
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy.samples import write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "all"
    write_samples(folder, count=2)
    return folder


@pytest.fixture
def staged_build(samples, tmp_path):
    """reader, plan, folder of the build, and the folder where its shards are staged."""
    reader, plan = (
        layouts.find_layout("refcoco").open(samples, "train"),
        Plan({"name": "refcoco", "split": "train"}, shard_size=4),
    )
    index = build_split(reader, tmp_path / "whole", plan)
    mark = json.loads((tmp_path / "whole" / f"{index.shards[0].file}.json").read_text())["settings"]
    return reader, plan, tmp_path / "out", tmp_path / "out" / ".staging" / mark


@pytest.fixture
def private_folder(tmp_path):
    """A folder of private files, and their content."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("package.json", "lock", "notes"):
        (folder / name).write_text("mine")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ("package.json", "lock", "notes"), "mine"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"file": "../../victim/notes"},
        {"file": "build.json"},
        {"file": "00001-of-00002.array_record"},
        {"file": 5},
        {"records": "abc"},
        {"records": -4},
        {"records": 10**30},
        {"records": 3},
        {"bytes": [1]},
        {"bytes": 4},
        {"bad": 5},
        {"bad": [[0, "left out"]]},
        None,
    ],
)
def test_invalid_staged_shards_are_rebuilt(staged_build, private_folder, tmp_path, wrong):
    reader, plan, out, staged = staged_build
    staged.mkdir(parents=True)
    (staged / "00000-of-00002.array_record").write_bytes(b"bytes of a stranger")
    note = {"file": "00000-of-00002.array_record", "records": 4, "bytes": 19, "bad": []}
    note["sha256"] = hashlib.sha256(b"bytes of a stranger").hexdigest()
    (staged / "00000-of-00002.json").write_text(json.dumps([1] if wrong is None else note | wrong))
    index = build_split(reader, out, plan)
    assert index == read_index(Store(tmp_path / "whole")) and not staged.parent.exists()


@pytest.mark.parametrize(
    "wrong", [{"records": 3}, {"records": 5}, {"records": 3, "bad": [[4, "x"]]}, {"records": 2, "bad": [[0, "x"], [0, "y"]]}]
)
def test_a_published_shard_with_other_records_is_built_again(staged_build, tmp_path, wrong):
    reader, plan, out, _ = staged_build
    build_split(reader, out, plan)
    note = out / "00000-of-00002.array_record.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | wrong))
    (out / INDEX).unlink()
    assert build_split(reader, out, plan) == read_index(Store(tmp_path / "whole"))


def test_errors_of_a_published_shard_are_single_lines(staged_build):
    reader, plan, out, _ = staged_build
    build_split(reader, out, plan)
    note = out / "00000-of-00002.array_record.json"
    bad = [[0, "x\n\x1b[32mall is well\nerror: run this"]]
    note.write_text(json.dumps(json.loads(note.read_text()) | {"records": 3, "bad": bad}))
    (out / INDEX).unlink()
    with pytest.raises(UserError, match=r"record 0: x\\n\\x1b\[32mall is well\\nerror: run this") as error:
        build_split(reader, out, plan)
    assert len(str(error.value).splitlines()) == 2


def test_linked_staged_shards_are_rebuilt(staged_build, tmp_path):
    reader, plan, out, staged = staged_build
    staged.mkdir(parents=True)
    full = tmp_path / "whole" / "00000-of-00002.array_record"
    (staged / "other").write_bytes(full.read_bytes())
    (staged / full.name).symlink_to(staged / "other")
    (staged / "00000-of-00002.json").write_text(full.with_name(f"{full.name}.json").read_text())
    build_split(reader, out, plan)
    assert not (out / full.name).is_symlink() and (out / full.name).read_bytes() == full.read_bytes()


@pytest.mark.parametrize("name", [".staging", ".staging/MARK", ".staging/lock"])
def test_links_in_the_staging_folder_are_refused(staged_build, private_folder, name):
    reader, plan, out, staged = staged_build
    link = out / name.replace("MARK", staged.name)
    link.parent.mkdir(parents=True)
    link.symlink_to(private_folder if "lock" not in name else private_folder / "new")
    with pytest.raises(UserError, match=rf"{link.name}: is (a symbolic link|not a lock file); remove it"):
        build_split(reader, out, plan)


def test_linked_splits_are_refused(samples, private_folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(private_folder)
    command = ("data", "build", "refcoco", "--root", samples, "--out", tmp_path / "out", "--split", "train")
    code, _, messages = run_command(capsys, *command)
    assert code == 2 and "train is a link that leaves" in messages
