"""Tells all processes of a run that one of them has failed, so that they end with one line.

Without it, the coordination service of JAX would notice the missing process later and abort the others, with a native stack
trace. A process that is killed or loses its network can tell nobody, and the others are aborted.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

FOLDER = "hyperseg/failed/"
INTERVAL, GRACE = 1.0, 3.0
"""Seconds between two looks, and seconds that this process has to fail by itself, for its own reason."""


class FailureWatch:
    """Looks for failures of other processes, in a thread."""

    def __init__(self, client: Any, end: Callable[[int, str], None]) -> None:
        """client: of the coordination service. end: ends this process, given the process that failed and what it told."""
        self._client, self._end, self._stopped = client, end, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="failure watch")
        self._thread.start()

    def tell(self, process: int, text: str) -> None:
        """Tells the others that this process has failed, and stops looking."""
        self._stopped.set()
        with contextlib.suppress(Exception):  # the service may be gone
            self._client.key_value_set(f"{FOLDER}{process}", text)

    def stop(self) -> None:
        """Stops looking. After that the client may be shut down."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                failed = self._client.key_value_dir_get(FOLDER)
            except Exception:  # the service is gone, and JAX ends the process
                return
            if failed and not self._stopped.wait(GRACE):
                key, text = min(failed)
                self._end(int(key.rsplit("/", 1)[1]), text)
