"""Runs a command that stops when its parent dies: python -m hyperseg_jax.sweeps.child_guard LOCK CORES PARENT COMMAND...

Replaces itself with COMMAND (exec). LOCK is a file that is locked while COMMAND runs, so that a second process for the same
workdir waits. CORES are the CPU cores that COMMAND may use ("0,1", or empty for all). When the process with the id PARENT dies,
COMMAND gets SIGTERM (on Linux; elsewhere it runs to its end).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept by execve


def main(arguments: Sequence[str]) -> None:
    """Takes the lock and becomes COMMAND. arguments: LOCK, CORES, PARENT and COMMAND."""
    lock, cores, parent, *command = arguments
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ignored and blocked signals are inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if os.getppid() != int(parent):  # the parent died before prctl was called
        raise SystemExit(1)
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise SystemExit(f"{lock}: cannot be used as the lock of a trial ({error.strerror}); remove it") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for an earlier process of this trial to save and exit", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
