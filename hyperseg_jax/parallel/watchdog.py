"""A thread that tells where a run hangs."""

from __future__ import annotations

import faulthandler
import pathlib
import sys
import threading
import time
from typing import Any


class Watchdog:
    """A context manager. Dumps the stacks of all threads to stderr, and to a file, when no beat has come for `seconds`; once
    for each silence. It waits from the first beat on, since what comes before (the first compilation) has no measure."""

    def __init__(self, seconds: float, file: pathlib.Path) -> None:
        self._seconds, self._file = seconds, file
        self._due: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end.set()
        self._thread.join()

    def beat(self, patience: float = 1.0) -> None:
        """Something finished. patience: how many times the limit the next thing may take."""
        self._due = time.monotonic() + patience * self._seconds

    def _watch(self) -> None:
        while not self._end.wait(min(self._seconds / 10, 5)):
            if self._due is not None and time.monotonic() > self._due:
                self._due = None
                line = f"nothing has finished for {self._seconds:g} s; the stacks of all threads:\n"
                sys.stderr.write(line)
                sys.stderr.flush()
                faulthandler.dump_traceback(2, all_threads=True)  # stderr, even where Python's own is wrapped
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a") as file:
                    file.write(time.strftime("%Y-%m-%d %H:%M:%S ") + line)
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
