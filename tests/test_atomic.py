"""Files and folders are written completely or not at all."""

import contextlib
import fcntl
import os
import pathlib
import resource
import signal
import stat
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


def test_the_old_file_stays_until_the_new_one_is_complete(path):
    with atomic_file(path) as part:
        part.write_bytes(b"after")
        assert path.read_text() == "before" and part.name == path.name
    assert path.read_text() == "after" and list(path.parent.iterdir()) == [path]


def test_an_exception_keeps_the_old_file(path):
    with pytest.raises(RuntimeError), atomic_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_a_deleted_temporary_file_keeps_the_old_file(path):
    with atomic_file(path) as part:
        part.write_text("unwanted")
        part.unlink()
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_devices_are_not_replaced(path):
    """Root could replace /dev/null."""
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")
    with pytest.raises(UserError, match="is a device, not a file; give a file"):
        write_text(path, "new")
    assert path.is_char_device()


def test_text(path):
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode() and list(path.parent.iterdir()) == [path]


def test_two_writers_at_once(path):
    """Each writes its own temporary file; the last one wins."""
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write_text("one")
        second.write_text("other")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


WRITE_SCRIPT = """
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
    """writer(name, kind): starts a process that is writing a file or folder."""
    processes = []

    def start(name, kind):
        inputs = [sys.executable, "-c", WRITE_SCRIPT, str(tmp_path / name), kind]
        processes.append(subprocess.Popen(inputs, stdout=subprocess.PIPE, text=True))
        return processes[-1], pathlib.Path(processes[-1].stdout.readline().strip())

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_leftovers_of_killed_writers_are_removed(tmp_path, writer):
    dead, leftover = writer("model", "atomic_folder")
    _, alive = writer("model", "atomic_folder")
    _, file = writer("index.json", "atomic_file")
    dead.kill()
    dead.wait()
    assert leftover.exists()
    write_text(tmp_path / "other.json", "{}")
    assert alive.exists() and file.exists() and not leftover.parent.parent.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not is_temporary(path)) == ["other.json"]


def test_a_folder_is_restored_after_a_kill(tmp_path, writer):
    """Killed between two renames: the previous folder is restored."""
    dead, leftover = writer("model", "atomic_folder")
    backup = leftover.parent.parent / "before" / "model"
    backup.mkdir(parents=True)
    (backup / "weights").write_text("trained")
    dead.kill()
    dead.wait()
    remove_stale(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "trained" and len(list(tmp_path.iterdir())) == 1


def test_links_in_leftovers_are_not_followed(tmp_path):
    """A shared folder may contain temporary folders of others."""
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


@pytest.mark.parametrize("planted", ["link", "other name", "two", "pipe", "right"])
def test_only_the_replaced_folder_is_restored(tmp_path, planted):
    """A temporary folder of someone else may have any content. Only what has the name that it stands for is restored."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    before = run / f".model.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    before.mkdir(parents=True)
    victim.mkdir()
    if planted == "link":
        (before / "model").symlink_to(victim)
    elif planted == "pipe":
        os.mkfifo(before / "model")
    else:
        (before / ("trials" if planted == "other name" else "model")).mkdir()
    if planted == "two":
        (before / "model2").symlink_to(victim)
    for path in (*before.iterdir(), before, before.parent):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    remove_stale(run)
    assert os.listdir(run) == (["model"] if planted == "right" else [])


def test_a_folder_that_was_being_replaced_is_restored_before_it_is_checked(tmp_path):
    """Else a folder that is not an earlier output would be replaced, and its content lost."""
    before = tmp_path / f".out.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    (before / "out").mkdir(parents=True)
    (before / "out" / "thesis.tex").touch()
    for path in (before / "out" / "thesis.tex", before / "out", before, before.parent):
        os.utime(path, (1e9, 1e9))
    with pytest.raises(UserError, match=r"contains thesis\.tex, which would be deleted"):
        check_replaceable(tmp_path / "out", ("*.json",))


def test_leftovers_of_other_machines_are_kept_for_a_day(tmp_path):
    names = [f".model.hyperseg-{'0' * 8}-aaaaaaa{k}" for k in range(2)]
    for name in names:
        (tmp_path / name / "new").mkdir(parents=True)
    (tmp_path / ".model.hyperseg-notes").mkdir()
    (tmp_path / f".link.hyperseg-{'0' * 8}-aaaaaaaa").symlink_to(tmp_path / ".model.hyperseg-notes")
    for path in (tmp_path / names[0], tmp_path / names[0] / "new"):
        os.utime(path, (1e9, 1e9))
    remove_stale(tmp_path)
    assert [(tmp_path / name).exists() for name in names] == [False, True] and len(list(tmp_path.iterdir())) == 3


def test_a_file_removed_before_its_lock_is_created_again(tmp_path, monkeypatch):
    """A temporary file that another process removes before it is locked is created again."""
    flock, create_and_remove = fcntl.flock, []

    def remove_before_lock(handle, how):
        if not create_and_remove:
            create_and_remove.append(1)
            remove_stale(tmp_path)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", remove_before_lock)
    write_text(tmp_path / "a.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_a_concurrent_one(tmp_path):
    with atomic_folder(tmp_path / "x") as first, atomic_folder(tmp_path / "x") as second:
        (first / "one").write_text("")
        (second / "other").write_text("")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["one"] and len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def full_disk(size):
    """Limits the size of files of this process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    backup = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, backup)


@pytest.mark.parametrize("write", ["text", "image", "folder"])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(path, write):
    named_path = path if write != "folder" else path.parent / "folder" / "x.npy"
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
    assert failed.value.filename == str(named_path) and failed.value.strerror
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
def test_a_folder_removed_during_writing_is_an_error(tmp_path, gone):
    """Also if the writer creates it again for the remaining files."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("before")
    with (
        pytest.raises(OSError, match="its temporary folder was removed by another process") as excinfo,
        atomic_folder(target) as part,
    ):
        (part / "a").write_text("lost")
        remove_tree(part if gone == "new" else part.parents[1])
        part.mkdir(parents=True)
        (part / "b").write_text("after")
    assert excinfo.value.filename == str(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (target / "a").read_text() == "before"


def test_folders_are_not_files_of_an_earlier_run(tmp_path):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "b").touch()
    for outputs, lost in ((("*.json", "b"), "a.json"), (("*.json/", "b/"), "b")):
        with pytest.raises(UserError, match=f"contains {lost}, which would be deleted"):
            check_replaceable(tmp_path, outputs)
    check_replaceable(tmp_path, ("*.json/", "b"))


def test_existing_files_are_reported_on_one_line(tmp_path):
    (tmp_path / "x\nerror: all is well").touch()
    with pytest.raises(UserError) as error:
        check_replaceable(tmp_path, ("*.json",))
    assert "\n" not in str(error.value) and "x\\nerror" in str(error.value)


def test_a_folder_removed_before_its_lock_is_created_again(tmp_path, monkeypatch):
    """Between creation and locking it looks like a leftover of a killed process."""
    make, results = tempfile.mkdtemp, []

    def create_and_remove(**kwargs):
        results.append(make(**kwargs))
        if len(results) == 1:
            pathlib.Path(results[0]).rmdir()
        return results[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", create_and_remove)
    write_text(tmp_path / "a.txt", "whole")
    assert len(results) == 2 and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def make_nested(folder, depth=1500):
    """Creates folders nested deeper than Python's recursion limit."""
    backup = pathlib.Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(backup)
    return folder


def test_deeply_nested_leftovers_are_removed(tmp_path):
    part = make_nested(tmp_path / ".x.hyperseg-00000000-aaaaaaaa")
    os.utime(part, (0, 0))
    remove_stale(tmp_path)  # from another machine and less than a day old: kept without an error
    with atomic_folder(make_nested(tmp_path / "model")) as new:
        (new / "a").write_text("whole")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]
    remove_tree(part)
    assert not part.exists() and len(list(tmp_path.iterdir())) == 1


def test_removal_does_not_follow_links(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_text("stays")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(kept)
    remove_tree(tmp_path / "gone")
    assert (kept / "a").read_text() == "stays" and not (tmp_path / "gone").exists()
