"""Writes files in a thread, so that training does not wait for slow disks and uploads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from hyperseg_jax.parallel import hosts


class BackgroundWriter:
    """A context manager around a thread of process 0 that runs writing functions in the order of submission. On other
    processes, nothing is run.

    log: receives a line for each failed call; training continues.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._queued: dict[str, concurrent.futures.Future[None]] = {}

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.shutdown()

    def submit(self, what: str, write: Callable[..., None], *args: Any) -> None:
        """Runs write(*args) in the thread. If a call of the same kind has not started yet, it is replaced by this one.

        what: what is written, for the log.
        """
        if not hosts.is_primary():
            return
        if (earlier := self._queued.get(what)) is not None:
            earlier.cancel()
        self._queued[what] = self._executor.submit(self._run, what, write, *args)

    def wait(self) -> None:
        """Waits until all submitted calls have ended."""
        concurrent.futures.wait(self._queued.values())

    def _run(self, what: str, write: Callable[..., None], *args: Any) -> None:
        try:
            write(*args)
        except Exception as error:  # image and storage libraries raise many types
            reason = f"{getattr(error, 'filename', None) or what}: {getattr(error, 'strerror', None) or error}"
            self._log(f"{what} was not written ({reason}); training continues; free disk space or fix the folder")
