"""A lock on a folder or bucket between processes on all machines that share it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.files import Files, open_files
from hyperseg_jax.locks.holder import Holder
from hyperseg_jax.untrusted.bad_file import failure_reason

FOLDER = ".lock"
NUMBERS = 10**15
"""Upper bound of file numbers, far above those of any real lock."""
BEAT, STALE = 15.0, 100.0
"""Seconds between two heartbeats of a holder, and seconds without a heartbeat after which it counts as dead."""


class Lock:
    """A lock on a folder between all machines that share it; a context manager once it is acquired.

    The files in FOLDER are numbered, and the file with the highest number is the lock: it is either free or names its holder,
    who updates it every `beat` seconds. To take over a free or stale lock, a process creates the file with the next number,
    which only one process can do, and removes the older ones. Numbers never decrease: a process that creates a file late, after
    being suspended, sees a higher number and withdraws. Clocks of different machines are never compared.

    log: called with a message when waiting for the lock. beat, stale: see BEAT and STALE. clock: seconds, for tests.
    """

    def __init__(
        self,
        folder: os.PathLike[str] | str,
        *,
        log: Callable[[str], None] = print,
        beat: float = BEAT,
        stale: float = STALE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._log, self._beat, self._stale, self._clock = os.fspath(folder), log, beat, stale, clock
        self._me = Holder.this_process()
        self._files: Files | None = None
        self._number = 0  # 0: not held
        self._watched: tuple[int, str, float] | None = None  # number, text, time of the last change
        self._done, self._thread = threading.Event(), threading.Thread(target=self._send_heartbeats, daemon=True)

    def acquire(self) -> None:
        """Acquires the lock and starts sending heartbeats in a thread. Raises UserError naming the holder if it is alive. If
        the holder is on another machine and may be dead, waits up to `stale` seconds for a heartbeat."""
        is_logged = False
        while not self.try_acquire():
            if not is_logged and self._watched is not None:
                holder = Holder.parse(self._watched[1]) or "an unknown run"
                self._log(f"{self.folder}: held by {holder}; waiting up to {self._stale:.0f} s for a heartbeat")
                is_logged = True
            time.sleep(min(1.0, self._stale / 10))
        self._thread.start()

    def try_acquire(self) -> bool:
        """Tries once to acquire the lock, without waiting. Returns whether it was acquired; False if another process was
        faster, or if it is not known yet whether the holder is alive. Raises UserError if the holder is alive."""
        with self._naming_folder():
            number, text = self._read_newest()
            holder = Holder.parse(text)
            lives = None if holder is None else holder.is_alive()
            if number == 0 or (holder and holder.free) or lives is False:
                return self._claim(number + 1)
            if lives is None:
                if self._watched is None or self._watched[0] != number:
                    self._watched = number, text, self._clock() - self._open_files().age(number)
                if self._watched[1] == text:
                    return self._clock() - self._watched[2] >= self._stale and self._claim(number + 1)
        raise UserError(
            f"{self.folder}: is in use by another run ({holder or 'unknown'}); stop it first, or give another folder"
        )

    def _claim(self, number: int) -> bool:
        """Acquires the lock by creating the file with this number. Returns False if another process was faster."""
        if number >= NUMBERS:
            raise self._invalid_number(number - 1)
        files = self._open_files()
        if not files.create(number, self._me.text()):
            return False
        numbers = files.numbers()
        if max(numbers, default=0) != number:  # another process has created a higher number
            files.remove(number)
            return False
        self._number = number
        for old in numbers:
            if old < number:
                files.remove(old)
        return True

    def send_heartbeat(self) -> None:
        """Updates the lock file, so that other machines see that this process is alive. Raises exceptions of the file system or
        bucket."""
        self._me = dataclasses.replace(self._me, beats=self._me.beats + 1)
        self._open_files().write(self._number, self._me.text())

    def check_still_held(self) -> None:
        """Raises UserError if this process has lost the lock: another process has taken it over while this one was suspended,
        or its files were removed."""
        try:
            number, text = self._read_newest()
        except Exception:  # the store may be unreachable for a moment
            return
        if number != self._number:
            holder = Holder.parse(text)
            cause, fix = "the lock of this run was removed", "start it again"
            if number:
                cause = f"this run was suspended, and another run has taken over its lock ({holder or 'unknown'})"
                fix = "start it again after the other run has ended"
            raise UserError(f"{self.folder}: {cause}; this run exits without saving; {fix}")

    def release(self) -> None:
        """Releases the lock. Never raises, so that it does not hide an exception of the protected code."""
        self._done.set()
        with contextlib.suppress(Exception):
            if self._thread.is_alive():
                self._thread.join(5)
            if self._number and self._read_newest()[0] == self._number:
                self._open_files().write(self._number, dataclasses.replace(self._me, free=True).text())
        self._number = 0

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.release()

    def _send_heartbeats(self) -> None:
        """Runs in a thread: sends a heartbeat every `beat` seconds until the lock is released."""
        while not self._done.wait(self._beat):
            with contextlib.suppress(Exception):  # the next heartbeat may succeed
                self.send_heartbeat()

    def _open_files(self) -> Files:
        self._files = self._files or open_files(f"{self.folder.rstrip('/')}/{FOLDER}")
        return self._files

    def _read_newest(self) -> tuple[int, str]:
        """Returns (number, text) of the file with the highest number, which is the lock; (0, "") if there is none."""
        files = self._open_files()
        number = max(files.numbers(), default=0)
        if number >= NUMBERS:
            raise self._invalid_number(number)
        return number, files.read(number) if number else ""

    def _invalid_number(self, number: int) -> UserError:
        return UserError(
            f"{self.folder}/{FOLDER}: has a file {number}, which no run has created; remove it if no run is active there"
        )

    @contextlib.contextmanager
    def _naming_folder(self) -> Iterator[None]:
        """Turns exceptions of the body into UserErrors that name the folder."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # stores raise different exceptions
            raise UserError(f"{self.folder}: cannot be written ({failure_reason(error)}); give another folder") from error
