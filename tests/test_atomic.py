"""Files that appear whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.atomic import (
    atomic_file,
    atomic_folder,
    check_replaceable,
    is_temporary,
    remove_stale,
    remove_tree,
    scratch_folder,
    write_text,
)
from hyperseg_jax.errors import UserError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("before")
    return path


def test_the_old_file_stands_until_the_new_one_is_whole(path):
    with atomic_file(path) as part:
        part.write_bytes(b"after")
        assert path.read_text() == "before" and part.name == path.name
    assert path.read_text() == "after" and list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file(path):
    with pytest.raises(RuntimeError), atomic_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_a_deleted_part_leaves_the_old_file(path):
    with atomic_file(path) as part:
        part.write_text("unwanted")
        part.unlink()
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_text(path):
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode() and list(path.parent.iterdir()) == [path]


def test_two_writers_at_once(path):
    """Each has a part of its own; the last one stays."""
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


WRITES = """
import pathlib, sys, time
from hyperseg_jax import atomic
path = pathlib.Path(sys.argv[1])
with getattr(atomic, sys.argv[2])(path) as part:
    (part / "x" if part.is_dir() else part).write_text("half")
    print(part, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """writer(name, kind): a process that is about to write a file or folder."""
    processes = []

    def start(name, kind):
        given = [sys.executable, "-c", WRITES, str(tmp_path / name), kind]
        processes.append(subprocess.Popen(given, stdout=subprocess.PIPE, text=True))
        return processes[-1], pathlib.Path(processes[-1].stdout.readline().strip())

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_what_a_killed_writer_leaves_goes_with_the_next_and_a_living_one_stays(tmp_path, writer):
    dead, left = writer("model", "atomic_folder")
    _, alive = writer("model", "atomic_folder")
    _, file = writer("index.json", "atomic_file")
    dead.kill()
    dead.wait()
    assert left.exists()
    write_text(tmp_path / "other.json", "{}")
    assert alive.exists() and file.exists() and not left.parent.parent.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not is_temporary(path)) == ["other.json"]


def test_a_folder_that_was_set_aside_comes_back(tmp_path, writer):
    """Killed between two renames: what stood there is not lost."""
    dead, left = writer("model", "atomic_folder")
    before = left.parent.parent / "before" / "model"
    before.mkdir(parents=True)
    (before / "weights").write_text("trained")
    dead.kill()
    dead.wait()
    remove_stale(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "trained" and len(list(tmp_path.iterdir())) == 1


def test_nothing_behind_a_link_in_a_left_over_part_is_moved(tmp_path):
    """A folder of somebody else may hold a part that no run of ours left."""
    victim, part = tmp_path / "victim", tmp_path / "run" / f".m.hyperseg-{'0' * 8}-aaaaaaaa"
    victim.mkdir()
    (victim / "key").write_text("mine")
    part.mkdir(parents=True)
    (part / "before").symlink_to(victim)
    (part / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (part / "before", part / "dangling", part):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    remove_stale(tmp_path / "run")
    assert (victim / "key").read_text() == "mine" and not list((tmp_path / "run").iterdir())


def test_parts_of_other_machines_stay_for_a_day(tmp_path):
    names = [f".model.hyperseg-{'0' * 8}-aaaaaaa{k}" for k in range(2)]
    for name in names:
        (tmp_path / name / "new").mkdir(parents=True)
    (tmp_path / ".model.hyperseg-notes").mkdir()
    (tmp_path / f".link.hyperseg-{'0' * 8}-aaaaaaaa").symlink_to(tmp_path / ".model.hyperseg-notes")
    for path in (tmp_path / names[0], tmp_path / names[0] / "new"):
        os.utime(path, (1e9, 1e9))
    remove_stale(tmp_path)
    assert [(tmp_path / name).exists() for name in names] == [False, True] and len(list(tmp_path.iterdir())) == 3


def test_an_odd_moment_of_a_sweep(tmp_path, monkeypatch):
    """A part that another process removes before it is locked is made anew."""
    flock, swept = fcntl.flock, []

    def sweeps_first(handle, how):
        if not swept:
            swept.append(1)
            remove_stale(tmp_path)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", sweeps_first)
    write_text(tmp_path / "a.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_the_one_that_appeared_meanwhile(tmp_path):
    with atomic_folder(tmp_path / "x") as one, atomic_folder(tmp_path / "x") as other:
        (one / "one").write_text("")
        (other / "other").write_text("")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["one"] and len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def full_disk(size):
    """No file of this process grows beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("write", ["text", "image", "folder"])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(path, write):
    named = path if write != "folder" else path.parent / "folder" / "x.npy"
    with full_disk(10), pytest.raises(OSError, match=r"too large|encoder error") as failed:
        if write == "text":
            write_text(path, "after" * 100)
        elif write == "image":
            with atomic_file(path) as part:
                Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(part, "PNG")
        else:
            with atomic_folder(path.parent / "folder") as part, open(part / "x.npy", "wb", buffering=0) as file:
                try:
                    file.write(b"x" * 10)
                    file.write(b"x")
                except OSError as error:
                    raise OSError(error.errno, error.strerror, file.name) from error
    assert failed.value.filename == str(named) and failed.value.strerror
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_scratch_is_removed_at_the_end_and_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "import os; from hyperseg_jax import atomic\nwith atomic.scratch_folder() as f: (f / 'x').mkdir(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code])
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder() as folder:
        assert folder.is_dir() and len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize("gone", ["new", "all"])
def test_a_folder_that_vanishes_while_it_is_written_is_an_error(tmp_path, gone):
    """Also where its writer makes it again, with what is left to write."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("before")
    with (
        pytest.raises(OSError, match="its temporary folder was removed while it was written") as told,
        atomic_folder(target) as part,
    ):
        (part / "a").write_text("lost")
        remove_tree(part if gone == "new" else part.parents[1])
        part.mkdir(parents=True)
        (part / "b").write_text("after")
    assert told.value.filename == str(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (target / "a").read_text() == "before"


def test_a_folder_does_not_count_as_a_file_of_an_earlier_run(tmp_path):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "b").touch()
    for outputs, lost in ((("*.json", "b"), "a.json"), (("*.json/", "b/"), "b")):
        with pytest.raises(UserError, match=f"contains {lost}, which would be deleted"):
            check_replaceable(tmp_path, outputs)
    check_replaceable(tmp_path, ("*.json/", "b"))


def test_a_name_that_would_be_lost_is_told_on_one_line(tmp_path):
    (tmp_path / "x\nerror: all is well").touch()
    with pytest.raises(UserError) as error:
        check_replaceable(tmp_path, ("*.json",))
    assert "\n" not in str(error.value) and "x\\nerror" in str(error.value)


def test_a_part_that_another_process_swept_at_once_is_made_again(tmp_path, monkeypatch):
    """Between its making and its locking it looks like what a killed process left."""
    make, made = tempfile.mkdtemp, []

    def swept(**given):
        made.append(make(**given))
        if len(made) == 1:
            pathlib.Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    write_text(tmp_path / "a.txt", "whole")
    assert len(made) == 2 and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def nested(folder, depth=1500):
    """Folders nested deeper than Python allows calls."""
    before = pathlib.Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    return folder


def test_what_a_killed_writer_left_is_removed_to_any_depth(tmp_path):
    part = nested(tmp_path / ".x.hyperseg-00000000-aaaaaaaa")
    os.utime(part, (0, 0))
    remove_stale(tmp_path)  # not of this machine, and not a day old: it stays, and nothing is raised
    with atomic_folder(nested(tmp_path / "model")) as new:
        (new / "a").write_text("whole")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]
    remove_tree(part)
    assert not part.exists() and len(list(tmp_path.iterdir())) == 1


def test_removing_follows_no_link(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_text("stays")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(kept)
    remove_tree(tmp_path / "gone")
    assert (kept / "a").read_text() == "stays" and not (tmp_path / "gone").exists()
