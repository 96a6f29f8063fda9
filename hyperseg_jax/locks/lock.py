"""One process at a time in a folder, on all machines that reach it; it may be a bucket."""

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
from hyperseg_jax.untrusted.bad_file import reason

FOLDER = ".lock"
NUMBERS = 10**15
"""More than any lock comes to."""
BEAT, STALE = 15.0, 100.0
"""Seconds between two signs of life of a holder, and without one until it counts as dead."""


class Lock:
    """One holder of a folder at a time, on all machines that reach it; a context manager once it is acquired.

    The files in FOLDER are numbered, and the newest is the lock: it names its holder, who changes it every `beat` seconds, or
    is free. Who may have it creates the file of the next number, which only one can, and removes the older ones. Numbers never
    go back: who creates one late, after a long sleep, sees a newer one, and withdraws. No clocks of two machines are compared.

    say: takes the line that tells of a wait.
    """

    def __init__(
        self,
        folder: os.PathLike[str] | str,
        *,
        say: Callable[[str], None] = print,
        beat: float = BEAT,
        stale: float = STALE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._say, self._beat, self._stale, self._clock = os.fspath(folder), say, beat, stale, clock
        self._me = Holder.me()
        self._files: Files | None = None
        self._number = 0  # 0: not held
        self._watched: tuple[int, str, float] | None = None  # number, text, when it was last changed
        self._done, self._thread = threading.Event(), threading.Thread(target=self._live, daemon=True)

    def acquire(self) -> None:
        """UserError that names the holder where there is one that lives. Waits, at most `stale` seconds, where it is on another
        machine and may be dead."""
        told = False
        while not self.attempt():
            if not told and self._watched is not None:
                who = Holder.parse(self._watched[1]) or "a run that is not named"
                self._say(f"{self.folder}: held by {who}; waiting up to {self._stale:.0f} s for a sign of life")
                told = True
            time.sleep(min(1.0, self._stale / 10))
        self._thread.start()

    def attempt(self) -> bool:
        """One try: True where the lock is taken, False where that is still open, UserError where its holder lives."""
        with self._named():
            number, text = self._newest()
            holder = Holder.parse(text)
            lives = None if holder is None else holder.lives()
            if number == 0 or (holder and holder.free) or lives is False:
                return self._claim(number + 1)
            if lives is None:
                if self._watched is None or self._watched[0] != number:
                    self._watched = number, text, self._clock() - self._opened().age(number)
                if self._watched[1] == text:
                    return self._clock() - self._watched[2] >= self._stale and self._claim(number + 1)
        who = holder or "not named"
        raise UserError(f"{self.folder}: another run works there ({who}); stop it first, or give another folder")

    def _claim(self, number: int) -> bool:
        if number >= NUMBERS:
            raise self._odd(number - 1)
        files = self._opened()
        if not files.create(number, self._me.text()):
            return False
        numbers = files.numbers()
        if max(numbers, default=0) != number:  # we came late
            files.remove(number)
            return False
        self._number = number
        for old in numbers:
            if old < number:
                files.remove(old)
        return True

    def renew(self) -> None:
        """A sign of life. Raises what the store raises."""
        self._me = dataclasses.replace(self._me, beats=self._me.beats + 1)
        self._opened().write(self._number, self._me.text())

    def check(self) -> None:
        """UserError where another has taken the lock over because this process stood still, or someone has removed it."""
        try:
            number, text = self._newest()
        except Exception:  # a store that is out of reach for a moment
            return
        if number != self._number:
            holder = Holder.parse(text)
            raise UserError(
                f"{self.folder}: this run stood still for long, and another one has taken it over "
                f"({holder or 'its lock is gone'}); this one ends without a save"
            )

    def release(self) -> None:
        """Leaves it to others. Never raises, so that it hides no error that ended the work."""
        self._done.set()
        with contextlib.suppress(Exception):
            if self._thread.is_alive():
                self._thread.join(5)
            if self._number and self._newest()[0] == self._number:
                self._opened().write(self._number, dataclasses.replace(self._me, free=True).text())
        self._number = 0

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.release()

    def _live(self) -> None:
        while not self._done.wait(self._beat):
            with contextlib.suppress(Exception):  # the next one may get through
                self.renew()

    def _opened(self) -> Files:
        self._files = self._files or open_files(f"{self.folder.rstrip('/')}/{FOLDER}")
        return self._files

    def _newest(self) -> tuple[int, str]:
        files = self._opened()
        number = max(files.numbers(), default=0)
        if number >= NUMBERS:
            raise self._odd(number)
        return number, files.read(number) if number else ""

    def _odd(self, number: int) -> UserError:
        return UserError(f"{self.folder}/{FOLDER}: has a file {number}, which no run makes; remove it if no run works there")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each store has its own
            raise UserError(f"{self.folder}: cannot be written ({reason(error)}); give another folder") from error
