"""Worker processes that ignore Ctrl-C and exit with their parent process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def block_ctrl_c_in_children() -> Iterator[None]:
    """Makes processes and threads that this thread starts in the body ignore Ctrl-C: they inherit its blocked SIGINT."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_with_parent() -> None:
    """Starts a thread that exits this worker process when its parent dies. Otherwise, workers of a killed parent wait
    forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_wait_and_exit, args=(parent,), daemon=True).start()


def _wait_and_exit(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
