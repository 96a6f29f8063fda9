"""The lock of a folder: held on all machines, left by no end of a process, taken over when its holder is dead."""

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

HOLDS = """
import sys, time
from hyperseg_jax.locks.lock import Lock
held = Lock(sys.argv[1])
held.acquire()
print("in", flush=True)
time.sleep(60)
"""
TAKES_AND_LEAVES = """
import os, sys, time
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.lock import Lock
folder, entered = sys.argv[1], 0
while entered < 5:
    held = Lock(folder)
    try:
        taken = held.attempt()
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


def started(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def bucket():
    store = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    store.store.clear()


@pytest.fixture(params=["folder", "bucket"])
def home(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


def elsewhere(held):
    """As if the holder were of another machine."""
    held._me = dataclasses.replace(held._me, machine="another", host="far")
    return held


def taken(folder, **options):
    held = Lock(folder, **options)
    assert held.attempt()
    return held


def test_the_second_is_refused_in_a_line_that_names_the_first(home):
    with taken(home):
        with pytest.raises(UserError) as refused:
            Lock(home).acquire()
        assert str(refused.value).startswith(f"{home}: is in use by another run (process {os.getpid()} on ")
        assert "since 20" in str(refused.value) and "\n" not in str(refused.value)
    taken(home).release()


def test_a_killed_process_holds_nothing(tmp_path):
    process = started(HOLDS, tmp_path)
    assert process.stdout.readline() == "in\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        Lock(tmp_path).acquire()
    process.send_signal(signal.SIGSTOP)  # it stands still, but lives
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        Lock(tmp_path, stale=0).acquire()
    process.kill()
    for _ in range(200):  # dead, though nobody has waited for it yet
        state = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.01)
    began = time.monotonic()
    with Lock(tmp_path) as held:
        held.acquire()
        assert time.monotonic() - began < 1
        assert len(list((tmp_path / FOLDER).iterdir())) == 1
    process.wait()


def test_a_later_process_of_the_same_number_is_another_one(home):
    held = taken(home)
    held._me = dataclasses.replace(held._me, began="1")
    held.renew()
    taken(home).release()


def test_many_processes_one_after_the_other(tmp_path):
    processes = [started(TAKES_AND_LEAVES, tmp_path) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


def test_a_holder_on_another_machine_that_lives_is_seen(home):
    held = elsewhere(taken(home))
    held.renew()
    lines = []
    beats = threading.Timer(0.15, held.renew)
    beats.start()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on far, since"):
        Lock(home, stale=5, log=lines.append).acquire()
    beats.join()
    assert len(lines) == 1 and "waiting up to 5 s for a heartbeat" in lines[0] and "on far" in lines[0]


def test_a_dead_holder_on_another_machine_is_waited_for_once(home):
    dead = elsewhere(taken(home))
    dead.renew()
    lines, began = [], time.monotonic()
    with Lock(home, stale=0.5, log=lines.append) as held:
        held.acquire()
        assert 0.4 < time.monotonic() - began < 3 and len(lines) == 1
        held.check()
        with pytest.raises(UserError, match="another run has taken over its lock"):
            dead.check()
        dead.release()  # frees nothing
        with pytest.raises(UserError, match="is in use by another run"):
            Lock(home).acquire()


def test_the_age_of_a_lock_in_a_folder_is_told_by_its_file_system(tmp_path):
    elsewhere(taken(tmp_path)).renew()
    (path,) = (tmp_path / FOLDER).iterdir()
    long_ago = path.stat().st_mtime - 1000
    os.utime(path, (long_ago, long_ago))
    taken(tmp_path).release()


def test_signs_of_life_go_on_by_themselves_and_do_not_keep_a_process(tmp_path):
    code = HOLDS.replace("Lock(sys.argv[1])", "Lock(sys.argv[1], beat=0.02)").replace("sleep(60)", "sleep(0.5); 1 / 0")
    process = started(code, tmp_path)
    process.stdout.readline()
    (path,) = (tmp_path / FOLDER).iterdir()
    seen = {json.loads(path.read_text())["beats"] for _ in range(10) if not time.sleep(0.03)}
    assert len(seen) > 2 and path.stat().st_size < 4096
    assert process.wait(10) == 1  # with its error


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "9" * 5000, '{"token": 3}', "\x1b[31m", "[" * 100_000])
def test_a_damaged_lock_is_nobodys_after_a_while(tmp_path, content):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "00000007").write_text(content)
    (tmp_path / FOLDER / "other").write_text("is not looked at")
    held = Lock(tmp_path, stale=0.2, log=lambda _: None)
    held.acquire()
    held.release()


def test_names_in_a_lock_are_escaped(tmp_path):
    told = dataclasses.replace(Holder.me(), host="\x1b[31mred\n", since="[bold]\x07")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "00000001").write_text(told.text())
    with pytest.raises(UserError) as refused:
        Lock(tmp_path).acquire()
    assert str(refused.value).isprintable()


def test_who_looked_long_ago_comes_too_late(home):
    late, dead = Lock(home), taken(home)
    number, _ = late._newest()
    dead.release()
    taken(home).release()
    with taken(home) as held:
        assert held._number == number + 2
        assert not late._claim(number + 1)
        held.check()
        assert held._opened().numbers() == [number + 2]


def test_an_error_of_the_work_is_not_hidden(home, monkeypatch):
    monkeypatch.setattr(Lock, "_newest", lambda self: 1 / 0)
    with pytest.raises(KeyError), Lock(home):
        raise KeyError


def test_a_store_that_fails_is_one_line(bucket, tmp_path, monkeypatch):
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


def test_a_store_that_cannot_create_once(bucket, monkeypatch):
    """Who wrote last, has it."""
    monkeypatch.setattr(files, "SETTLE", 0.2)
    makes = files.open_files(bucket)
    makes._has_exclusive_create = False
    other = threading.Timer(0.1, fsspec.filesystem("memory").pipe_file, ("/bucket/run/00000001", b"other"))
    other.start()
    assert not makes.create(1, "mine")
    assert not makes.create(1, "again") and makes.create(2, "mine")


class Runs(RuleBasedStateMachine):
    """Three runs on as many machines: they look, take, stand still, are killed and leave. Two are never inside at once."""

    NAMES = st.sampled_from("abc")

    def __init__(self):
        super().__init__()
        self.now, self.inside, self.trying, self.serial = 0.0, {}, {}, 0
        self.home = "memory://model/run"

    def teardown(self):
        fsspec.filesystem("memory").store.clear()

    def made(self, name):
        held = Lock(self.home, stale=100, clock=lambda: self.now)
        held._opened().age = lambda number: 0.0
        held._me = dataclasses.replace(held._me, machine=name)
        return held

    @rule(name=NAMES)
    def look(self, name):
        if name in self.inside:
            return
        trying = self.trying.setdefault(name, self.made(name))
        try:
            if trying.attempt():
                self.inside[name] = self.trying.pop(name)
        except UserError:
            del self.trying[name]

    @rule(name=NAMES)
    def beat(self, name):
        if name in self.inside and self.holds(name):
            self.inside[name].renew()

    @rule(name=NAMES)
    def die(self, name):
        self.inside.pop(name, None)
        self.trying.pop(name, None)

    @rule(name=NAMES)
    def leave(self, name):
        if name in self.inside:
            self.inside.pop(name).release()

    @rule(seconds=st.sampled_from([10, 60, 110]))
    def wait(self, seconds):
        self.now += seconds

    def holds(self, name):
        """A run asks before each save, and ends where it has lost the lock."""
        try:
            self.inside[name].check()
        except UserError:
            return False
        return True

    @invariant()
    def one_at_most(self):
        assert sum(self.holds(name) for name in self.inside) <= 1

    @precondition(lambda self: not self.inside)
    @rule()
    def nobody_is_locked_out(self):
        held = self.made("d")
        for _ in range(2):
            if held.attempt():
                break
            self.now += 101
        held.check()
        held.release()


def test_any_order_of_events():
    run_state_machine_as_test(
        Runs, settings=settings(max_examples=25, stateful_step_count=25, derandomize=True, deadline=None, database=None)
    )


def test_the_lock_is_stale_long_after_a_few_signs_of_life_are_missed():
    assert lock.STALE > 5 * lock.BEAT


@pytest.mark.parametrize("number", [10**15 - 1, 10**15, 10**18 - 1])
def test_a_number_that_no_lock_comes_to_ends_in_a_line(tmp_path, number):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / str(number)).write_text(dataclasses.replace(Holder.me(), free=True).text())
    with pytest.raises(UserError, match=rf"{FOLDER}: has a file {number}, which no run creates; remove it"):
        Lock(tmp_path).acquire()
    (folder / str(number)).rename(folder / str(10**14))
    with Lock(tmp_path) as held:
        held.acquire()
        held.check()


def test_a_lock_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / FOLDER).symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"run/\.lock: \.lock is a link that leaves .*--limits outside=True"):
        Lock(tmp_path / "run").acquire()
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_in_a_lock_is_named(tmp_path, link):
    (tmp_path / FOLDER).mkdir()
    odd = tmp_path / FOLDER / "00000001"
    odd.symlink_to(tmp_path / "other") if link else odd.mkdir()
    with pytest.raises(UserError, match=rf"{FOLDER}/00000001: is a folder or a link in a lock; remove it"):
        Lock(tmp_path).acquire()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000001"]
