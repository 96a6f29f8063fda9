"""Notifies all processes of a run that one of them has failed, so that all exit with one line.

Without it, the coordination service of JAX notices the missing process later, and aborts the other processes with a native
stack trace. This still happens if a process is killed or loses its network connection, as it cannot announce its failure.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

FOLDER = "hyperseg/failed/"
INTERVAL, GRACE = 1.0, 3.0
"""Seconds between two polls, and seconds from noticing a failure of another process to ending this one, in which this process
may fail by itself with a better message."""


class FailureWatch:
    """A thread that polls for failures of other processes and ends this process after one. Started on creation."""

    def __init__(self, client: Any, end: Callable[[int, str], None]) -> None:
        """client: of the coordination service of JAX. end: called in the thread to end this process, with the id of the failed
        process and the text that it has announced."""
        self._client, self._end, self._stopped = client, end, threading.Event()
        self._thread = threading.Thread(target=self._poll_failures, daemon=True, name="failure watch")
        self._thread.start()

    def announce_failure(self, process: int, text: str) -> None:
        """Announces to the other processes that this one has failed, and stops polling. process: id of this process. text:
        passed to `end` of the others."""
        self._stopped.set()
        with contextlib.suppress(Exception):  # the service may be gone
            self._client.key_value_set(f"{FOLDER}{process}", text)

    def stop(self) -> None:
        """Stops the thread and waits for it. Must be called before the client is shut down."""
        self._stopped.set()
        self._thread.join()

    def _poll_failures(self) -> None:
        """Runs in the thread."""
        while not self._stopped.wait(INTERVAL):
            try:
                failed = self._client.key_value_dir_get(FOLDER)
            except Exception:  # if the service is gone, JAX ends the process; other errors are transient
                continue
            if failed and not self._stopped.wait(GRACE):
                key, text = min(failed)
                self._end(int(key.rsplit("/", 1)[1]), text)
