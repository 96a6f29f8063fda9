"""A thread that tells where a run hangs."""

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
from hyperseg_jax.untrusted import stores


class Watchdog:
    """A context manager. Dumps the stacks of all threads to stderr, and to a file, when no beat has come for `seconds`; once
    for each silence. It waits from a beat to the next."""

    def __init__(self, seconds: float, file: os.PathLike[str] | str) -> None:
        self._seconds, self._file = seconds, epath.Path(file)
        self._due: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end.set()
        self._thread.join()

    def beat(self) -> None:
        """Something finished."""
        self._due = time.monotonic() + self._seconds

    def patient(self) -> None:
        """What begins now, such as a compilation, may take any time until the next beat."""
        self._due = None

    def _watch(self) -> None:
        while not self._end.wait(min(self._seconds / 10, 5)):
            if self._due is not None and time.monotonic() > self._due:
                self._due = None
                line = f"nothing has finished for {self._seconds:g} s; the stacks of all threads:\n"
                with tempfile.TemporaryFile("w+") as stacks:
                    faulthandler.dump_traceback(stacks, all_threads=True)
                    stacks.seek(0)
                    told = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}{stacks.read()}"
                print(told, file=sys.stderr, flush=True)
                try:
                    if stores.is_url(os.fspath(self._file)):
                        self._file.write_text(told)
                    else:
                        write_text(pathlib.Path(self._file), told)
                except Exception as error:  # a full disk, a store out of reach: may be why nothing finishes
                    print(f"{self._file}: not written ({error})", file=sys.stderr, flush=True)
