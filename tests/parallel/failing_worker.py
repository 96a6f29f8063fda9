"""One of two processes. The process named by the last argument fails (2: both), the other waits for it."""

import sys

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts

if __name__ == "__main__":
    error, victim = {"ValueError": ValueError, "UserError": UserError}[sys.argv[1]], int(sys.argv[2])
    hosts.connect(hosts.Timeouts(start=60, barrier=60, heartbeat=100))
    with hosts.exit_on_error():
        hosts.exchange("the start")
        if hosts.jax.process_index() == victim or victim == 2:
            raise error("the file is bad")
        hosts.exchange("the work")
    hosts.shut_down()
