"""A watchdog thread that reports where a run hangs."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import sys
import tempfile
import threading
import time
from typing import Any

from etils import epath

from hyperseg_jax.atomic import write_text
from hyperseg_jax.untrusted import paths, stores


class Watchdog:
    """A context manager that runs a thread. If `beat` is not called again within `seconds` of its last call, prints the stacks
    of all threads to stderr and writes them to a file; once until the next call."""

    def __init__(self, seconds: float, file: os.PathLike[str] | str) -> None:
        self._seconds, self._file = seconds, epath.Path(file)
        self._deadline: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stopped.set()
        self._thread.join()

    def beat(self) -> None:
        """Restarts the timeout. Called whenever a step or another unit of work has finished."""
        self._deadline = time.monotonic() + self._seconds

    def pause(self) -> None:
        """Disables the timeout until the next beat, for example during a compilation."""
        self._deadline = None

    def _watch(self) -> None:
        """Runs in the thread."""
        while not self._stopped.wait(min(self._seconds / 10, 5)):
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._deadline = None
                line = f"nothing has finished for {self._seconds:g} s; the stacks of all threads:\n"
                with tempfile.TemporaryFile("w+") as stacks:
                    faulthandler.dump_traceback(stacks, all_threads=True)
                    stacks.seek(0)
                    report = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}{stacks.read()}"
                print(report, file=sys.stderr, flush=True)
                try:
                    if stores.is_url(os.fspath(self._file)):
                        self._file.write_text(report)
                    else:
                        paths.make_replaceable(pathlib.Path(self._file), "a report of stacks")
                        write_text(pathlib.Path(self._file), report)
                except Exception as error:  # a full disk or an unreachable bucket may be the cause of the hang
                    print(f"{self._file}: not written ({error})", file=sys.stderr, flush=True)
