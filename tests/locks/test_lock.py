"""The lock of a folder: exclusive across machines, released when a process ends, taken over when its holder is dead."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from hyperseg_jax.errors import UserError
from hyperseg_jax.locks import files, lock
from hyperseg_jax.locks.holder import Holder
from hyperseg_jax.locks.lock import FOLDER, Lock

HOLD_SCRIPT = """
import sys, time
from hyperseg_jax.locks.lock import Lock
held = Lock(sys.argv[1])
held.acquire()
print("in", flush=True)
time.sleep(60)
"""
ACQUIRE_AND_RELEASE_SCRIPT = """
import os, sys, time
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.lock import Lock
folder, entered = sys.argv[1], 0
while entered < 5:
    held = Lock(folder)
    try:
        taken = held.try_acquire()
    except UserError:
        taken = False
    if taken:
        inside = os.open(folder + "/inside", os.O_CREAT | os.O_EXCL)  # fails where another one is inside as well
        time.sleep(0.002)
        os.close(inside)
        os.unlink(folder + "/inside")
        entered += 1
        held.release()
    time.sleep(0.001)
"""


def start_process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def bucket():
    store = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    store.store.clear()


@pytest.fixture(params=["folder", "bucket"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


def move_to_other_machine(lock):
    """Makes the lock appear to be held by another machine."""
    lock._me = dataclasses.replace(lock._me, machine="another", host="far")
    return lock


def acquire(folder, **options):
    lock = Lock(folder, **options)
    assert lock.try_acquire()
    return lock


def test_a_second_process_is_refused_and_the_holder_named(folder):
    with acquire(folder):
        with pytest.raises(UserError) as refused:
            Lock(folder).acquire()
        assert str(refused.value).startswith(f"{folder}: is in use by another run (process {os.getpid()} on ")
        assert "since 20" in str(refused.value) and "\n" not in str(refused.value)
    acquire(folder).release()


def test_a_killed_process_releases_its_lock(tmp_path):
    process = start_process(HOLD_SCRIPT, tmp_path)
    assert process.stdout.readline() == "in\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        Lock(tmp_path).acquire()
    process.send_signal(signal.SIGSTOP)  # suspended, but alive
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        Lock(tmp_path, stale=0).acquire()
    process.kill()
    for _ in range(200):  # dead, but not yet reaped
        state = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.01)
    began = time.monotonic()
    with Lock(tmp_path) as lock:
        lock.acquire()
        assert time.monotonic() - began < 1
        assert len(list((tmp_path / FOLDER).iterdir())) == 1
    process.wait()


def test_a_later_process_with_the_same_pid_is_not_the_holder(folder):
    lock = acquire(folder)
    lock._me = dataclasses.replace(lock._me, began="1")
    lock.send_heartbeat()
    acquire(folder).release()


def test_many_processes_acquire_in_turn(tmp_path):
    processes = [start_process(ACQUIRE_AND_RELEASE_SCRIPT, tmp_path) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


def test_a_living_holder_on_another_machine_is_detected(folder):
    lock = move_to_other_machine(acquire(folder))
    lock.send_heartbeat()
    lines = []
    beats = threading.Timer(0.15, lock.send_heartbeat)
    beats.start()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on far, since"):
        Lock(folder, stale=5, log=lines.append).acquire()
    beats.join()
    assert len(lines) == 1 and "waiting up to 5 s for a heartbeat" in lines[0] and "on far" in lines[0]


def test_a_dead_holder_on_another_machine_expires_once(folder):
    dead = move_to_other_machine(acquire(folder))
    dead.send_heartbeat()
    lines, began = [], time.monotonic()
    with Lock(folder, stale=0.5, log=lines.append) as lock:
        lock.acquire()
        assert 0.4 < time.monotonic() - began < 3 and len(lines) == 1
        lock.check_still_held()
        with pytest.raises(UserError, match="another run has taken over its lock"):
            dead.check_still_held()
        dead.release()  # releases nothing
        with pytest.raises(UserError, match="is in use by another run"):
            Lock(folder).acquire()


def test_lock_age_uses_the_file_system_clock(tmp_path):
    move_to_other_machine(acquire(tmp_path)).send_heartbeat()
    (path,) = (tmp_path / FOLDER).iterdir()
    long_ago = path.stat().st_mtime - 1000
    os.utime(path, (long_ago, long_ago))
    acquire(tmp_path).release()


def test_heartbeats_run_in_a_daemon_thread(tmp_path):
    code = HOLD_SCRIPT.replace("Lock(sys.argv[1])", "Lock(sys.argv[1], beat=0.02)").replace("sleep(60)", "sleep(0.5); 1 / 0")
    process = start_process(code, tmp_path)
    process.stdout.readline()
    (path,) = (tmp_path / FOLDER).iterdir()
    seen = {json.loads(path.read_text())["beats"] for _ in range(10) if not time.sleep(0.03)}
    assert len(seen) > 2 and path.stat().st_size < 4096
    assert process.wait(10) == 1  # with its error


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "9" * 5000, '{"token": 3}', "\x1b[31m", "[" * 100_000])
def test_a_damaged_lock_expires(tmp_path, content):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "00000007").write_text(content)
    (tmp_path / FOLDER / "other").write_text("is not looked at")
    lock = Lock(tmp_path, stale=0.2, log=lambda _: None)
    lock.acquire()
    lock.release()


def test_names_in_a_lock_are_escaped(tmp_path):
    messages = dataclasses.replace(Holder.this_process(), host="\x1b[31mred\n", since="[bold]\x07")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "00000001").write_text(messages.text())
    with pytest.raises(UserError) as refused:
        Lock(tmp_path).acquire()
    assert str(refused.value).isprintable()


def test_outdated_checks_cannot_acquire(folder):
    late, dead = Lock(folder), acquire(folder)
    number, _ = late._read_newest()
    dead.release()
    acquire(folder).release()
    with acquire(folder) as lock:
        assert lock._number == number + 2
        assert not late._claim(number + 1)
        lock.check_still_held()
        assert lock._open_files().numbers() == [number + 2]


def test_errors_of_the_body_are_raised(folder, monkeypatch):
    monkeypatch.setattr(Lock, "_read_newest", lambda self: 1 / 0)
    with pytest.raises(KeyError), Lock(folder):
        raise KeyError


def test_storage_errors_are_one_line(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x: cannot be written .Not a directory"):
        Lock(tmp_path / "file" / "x").acquire()
    with pytest.raises(UserError, match=r"zz://x.*is not a supported bucket URL"):
        Lock("zz://x/y").acquire()

    def refuse(*_, **__):
        raise RuntimeError("403")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(UserError, match=r"bucket/run: cannot be written .RuntimeError: 403"):
        Lock(bucket).acquire()


def test_stores_without_exclusive_creation(bucket, monkeypatch):
    """Without atomic creation, the last writer gets the lock."""
    monkeypatch.setattr(files, "SETTLE", 0.2)
    makes = files.open_files(bucket)
    makes._has_exclusive_create = False
    other = threading.Timer(0.1, fsspec.filesystem("memory").pipe_file, ("/bucket/run/00000001", b"other"))
    other.start()
    assert not makes.create(1, "mine")
    assert not makes.create(1, "again") and makes.create(2, "mine")


class Runs(RuleBasedStateMachine):
    """Three runs on three machines try, acquire, hang, are killed and release. No two hold the lock at once."""

    NAMES = st.sampled_from("abc")

    def __init__(self):
        super().__init__()
        self.now, self.holders, self.trying, self.serial = 0.0, {}, {}, 0
        self.folder = "memory://model/run"

    def teardown(self):
        fsspec.filesystem("memory").store.clear()

    def make_lock(self, name):
        lock = Lock(self.folder, stale=100, clock=lambda: self.now)
        lock._open_files().age = lambda number: 0.0
        lock._me = dataclasses.replace(lock._me, machine=name)
        return lock

    @rule(name=NAMES)
    def try_acquire(self, name):
        if name in self.holders:
            return
        trying = self.trying.setdefault(name, self.make_lock(name))
        try:
            if trying.try_acquire():
                self.holders[name] = self.trying.pop(name)
        except UserError:
            del self.trying[name]

    @rule(name=NAMES)
    def renew(self, name):
        if name in self.holders and self.still_holds(name):
            self.holders[name].send_heartbeat()

    @rule(name=NAMES)
    def kill(self, name):
        self.holders.pop(name, None)
        self.trying.pop(name, None)

    @rule(name=NAMES)
    def release(self, name):
        if name in self.holders:
            self.holders.pop(name).release()

    @rule(seconds=st.sampled_from([10, 60, 110]))
    def wait(self, seconds):
        self.now += seconds

    def still_holds(self, name):
        """A run checks before each save, and stops if it has lost the lock."""
        try:
            self.holders[name].check_still_held()
        except UserError:
            return False
        return True

    @invariant()
    def at_most_one_holder(self):
        assert sum(self.still_holds(name) for name in self.holders) <= 1

    @precondition(lambda self: not self.holders)
    @rule()
    def lock_can_be_acquired(self):
        lock = self.make_lock("d")
        for _ in range(2):
            if lock.try_acquire():
                break
            self.now += 101
        lock.check_still_held()
        lock.release()


def test_state_machine():
    run_state_machine_as_test(
        Runs, settings=settings(max_examples=25, stateful_step_count=25, derandomize=True, deadline=None, database=None)
    )


def test_locks_expire_after_several_missed_heartbeats():
    assert lock.STALE > 5 * lock.BEAT


@pytest.mark.parametrize("number", [10**15 - 1, 10**15, 10**18 - 1])
def test_too_large_lock_numbers_are_one_line(tmp_path, number):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / str(number)).write_text(dataclasses.replace(Holder.this_process(), free=True).text())
    with pytest.raises(UserError, match=rf"{FOLDER}: has a file {number}, which no run has created; remove it"):
        Lock(tmp_path).acquire()
    (folder / str(number)).rename(folder / str(10**14))
    with Lock(tmp_path) as lock:
        lock.acquire()
        lock.check_still_held()


def test_linked_locks_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / FOLDER).symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"run/\.lock: \.lock is a link that leaves .*--limits outside=True"):
        Lock(tmp_path / "run").acquire()
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("link", [False, True])
def test_special_files_in_a_lock_are_named(tmp_path, link):
    (tmp_path / FOLDER).mkdir()
    path = tmp_path / FOLDER / "00000001"
    path.symlink_to(tmp_path / "other") if link else path.mkdir()
    with pytest.raises(UserError, match=rf"{FOLDER}/00000001: is a folder or a link in a lock; remove it"):
        Lock(tmp_path).acquire()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000001"]


@pytest.mark.parametrize(
    "make", [lambda p: p.symlink_to(p.name), lambda p: p.symlink_to("gone"), os.mkfifo, pathlib.Path.touch]
)
def test_what_is_no_folder_in_the_place_of_a_lock_is_named(tmp_path, make):
    make(tmp_path / FOLDER)
    with pytest.raises(UserError, match=r"/\.lock: is not a folder, but the lock of a run is kept there; remove it"):
        Lock(tmp_path).acquire()
    assert os.path.lexists(tmp_path / FOLDER)
