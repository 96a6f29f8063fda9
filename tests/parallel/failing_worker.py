"""One of two processes. The process named by the last argument fails (2: both), the other waits for it."""

import errno
import os
import signal
import sys
import time

from hyperseg_jax.commands.script import script
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.untrusted.bad_file import BadFile

ERRORS = {
    "UserError": UserError("the file is bad"),
    "BadFile": BadFile("is bad", "correct it"),
    "ValueError": ValueError("the file is bad"),
    "disk": OSError(errno.ENOSPC, "No space left on device", "a/b"),
}


def fail(kind):
    if kind == "SIGINT":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    if kind == "SIGTERM":
        hosts.end_on_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    raise ERRORS[kind]


if __name__ == "__main__":
    kind, victim = sys.argv[1], int(sys.argv[2])
    with script():
        hosts.connect(hosts.Timeouts(start=60, barrier=60, heartbeat=100))
        with hosts.exit_on_error():
            hosts.exchange("the start")
            if hosts.jax.process_index() == victim or victim == 2:
                fail(kind)
            hosts.exchange("the work")
        hosts.shut_down()
