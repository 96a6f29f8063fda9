"""python -m hyperseg_jax.sweeps.child_guard LOCK CORES PARENT COMMAND...: becomes COMMAND, tied to whoever started it.

LOCK is held as long as COMMAND lives, so that two never work in one workdir: whoever comes second waits. CORES ("0,1", or empty
for all) are those it may use. When the process PARENT dies, COMMAND gets SIGTERM (on Linux; elsewhere it runs to its end).
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
    lock, cores, parent, *command = arguments
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is ignored or blocked where it was started would stay so
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if os.getppid() != int(parent):  # it died before the line above
        raise SystemExit(1)
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise SystemExit(f"{lock}: is no lock of a trial ({error.strerror}); remove it") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for an earlier process of this trial to save and end", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
