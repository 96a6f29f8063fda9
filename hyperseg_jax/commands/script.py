"""What a command needs of the process around it: streams that may be closed or full, and signals at any moment."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _Out(io.FileIO):
    """Standard output: an error is told once and bears its name, so that it ends the command in one line."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = OSError(error.errno, error.strerror, "standard output")
                raise self.failure from error
        return len(data)


class _Err(io.FileIO):
    """Standard error: what cannot be written there is lost, and ends nothing."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Ended(KeyboardInterrupt):
    """SIGTERM: what Ctrl-C does, with another exit code."""


class _Signals:
    """Whether the process was told to end, and by which signal."""

    told: int = 0

    def __call__(self, number: int, _: Any) -> None:
        self.told = number
        raise KeyboardInterrupt if number == signal.SIGINT else _Ended

    @property
    def code(self) -> int:
        return 128 + self.told


@contextlib.contextmanager
def script() -> Iterator[None]:
    """Around a command that is the whole process, to its very end.

    Ctrl-C and SIGTERM end it with one line, at any moment; half-written files go first. Standard output that is closed or full
    ends it with one line and exit code 2, a broken pipe quietly with 1. Standard error that is closed or full ends nothing.
    """
    out = _open_streams()
    signals = _Signals()
    _listen(signals)
    try:
        code: Any = 0
        try:
            yield
        except SystemExit as error:
            code = error.code
        finally:
            _die_at_once()
        sys.stdout.flush()
        if out.failure is not None and not code:
            raise out.failure
        if signals.told:  # where a library has swallowed it, nothing else tells
            if code in (0, None):
                _say("stopped")
            code = signals.code
    except BaseException as error:
        if signals.told:
            code = signals.code
            _say("stopped")
        elif isinstance(error, BrokenPipeError) and error is out.failure:
            code = 1
        elif isinstance(error, OSError) and error is out.failure:
            code = 2
            _say(f"{error.filename}: {error.strerror}; give it room, or another place")
        else:
            raise
    raise SystemExit(code)


def _say(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


def _open_streams() -> _Out:
    """Puts guards around the standard streams, which stand for the descriptors 1 and 2 even where those are closed: else the
    next file that is opened would take the number, and what libraries print would go into it."""
    while True:
        number = os.open(os.devnull, os.O_RDONLY)  # writing there fails, as to what is closed
        if number >= 2:
            os.close(number)
        if number > 2:
            break
        if number == 2:
            number = os.open(os.devnull, os.O_WRONLY)
        os.set_inheritable(number, True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.flush()
    out, err = _Out(1, "w", closefd=False), _Err(2, "w", closefd=False)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(err, sys.stderr)
    return out


def _text(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    """A stream of text on `raw` in the ways of the one before, which may be None."""
    kept = {name: getattr(before, name, None) for name in ("encoding", "errors", "line_buffering")}
    by_line = kept["line_buffering"] or getattr(before, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), kept["encoding"] or "utf-8", kept["errors"] or "backslashreplace", None, by_line
    )


def _listen(signals: _Signals) -> None:
    """What is ignored, as behind nohup, stays ignored."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:
            signal.signal(number, signals)
    told = sys.unraisablehook

    def swallowed(what: Any) -> None:
        """Python calls this where nothing can be raised, as in a finalizer: the signal is sent again."""
        if not issubclass(what.exc_type, KeyboardInterrupt):
            told(what)
        elif signals.told:
            again = threading.Timer(0.05, os.kill, (os.getpid(), signals.told))
            again.daemon = True
            again.start()

    sys.unraisablehook = swallowed


def _die_at_once() -> None:
    """All is written and told; what libraries do at the exit of the process may be cut short."""

    def die(number: int, _: Any) -> None:
        os.write(2, b"error: stopped\n")
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, die)
