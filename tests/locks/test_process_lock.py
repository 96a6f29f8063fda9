"""Locks between processes of one machine."""

import subprocess
import sys
import threading
import time

from hyperseg_jax.locks.process_lock import process_lock

HOLD_SCRIPT = """
import pathlib, sys, time
from hyperseg_jax.locks.process_lock import process_lock
with process_lock(pathlib.Path(sys.argv[1]), wait=False) as free:
    print(free, flush=True)
    time.sleep(60)
"""


def test_locks_are_released_when_a_process_ends(tmp_path):
    path = tmp_path / "below" / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD_SCRIPT, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    with process_lock(path, wait=False) as free:
        assert not free
    threading.Timer(0.1, process.kill).start()
    with process_lock(path, wait=True) as free:
        assert free and process.wait() == -9
    assert not path.exists()


def test_many_threads_acquire_in_turn(tmp_path):
    """The holder deletes the file; waiters on a deleted file continue with the next one."""
    inside, most = [], []

    def work():
        for _ in range(20):
            with process_lock(tmp_path / "lock", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) == 120 and not (tmp_path / "lock").exists()
