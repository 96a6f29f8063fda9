"""Process setup of a command: handles closed or full output streams, and signals at any moment."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from hyperseg_jax import failures
from hyperseg_jax.errors import Terminated
from hyperseg_jax.untrusted.printing import message


class _Stdout(io.FileIO):
    """Standard output. Only the first write error is raised, with STANDARD_OUTPUT as its file name; later writes are dropped,
    so that the process can exit with one line."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = OSError(error.errno, error.strerror, failures.STANDARD_OUTPUT)
                raise self.failure from error
        return len(data)


class _Stderr(io.FileIO):
    """Standard error. Write errors are ignored."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Signals:
    """A signal handler that records the received signal (0: none yet) and raises KeyboardInterrupt."""

    received: int = 0

    def __call__(self, number: int, _: Any) -> None:
        self.received = failures.settings.signal = number
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    @property
    def code(self) -> int:
        """The exit code of a process that was ended by this signal."""
        return 128 + self.received


@contextlib.contextmanager
def script() -> Iterator[None]:
    """Runs the body as the only command of this process, and always ends with SystemExit or an exception of the body.

    Ctrl-C and SIGTERM exit with one line at any moment, after half-written files were removed. A closed or full standard output
    exits with one line and code 2, a broken pipe silently with code 1. A closed or full standard error is ignored.
    """
    out = _open_streams()
    signals = _Signals()
    _install_handlers(signals)
    try:
        code: Any = 0
        try:
            yield
        except SystemExit as error:
            code = error.code
        finally:
            _exit_immediately_on_signals()
        sys.stdout.flush()
        if out.failure is not None and not code:
            raise out.failure
        if signals.received:  # a library may have swallowed the exception
            if code in (0, None):
                _print_error("stopped")
            code = signals.code
    except BaseException as error:
        if signals.received:
            code = signals.code
            _print_error("stopped")
        elif isinstance(error, BrokenPipeError) and error is out.failure:
            code = 1
        elif isinstance(error, OSError) and error is out.failure:
            code = 2
            _print_error(failures.describe(error).line)
        else:
            raise
    raise SystemExit(code)


def _print_error(text: str) -> None:
    print(f"error: {message(text)}", file=sys.stderr)


def _open_streams() -> _Stdout:
    """Replaces sys.stdout and sys.stderr by streams with our handling of write errors, and returns the raw standard output.

    Also opens descriptors 0 to 2 if they are closed: otherwise the next opened file would get descriptor 1 or 2, and output of
    libraries would be written into it.
    """
    while True:
        number = os.open(os.devnull, os.O_RDONLY)  # writing to it fails, as to a closed stream
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
    out, err = _Stdout(1, "w", closefd=False), _Stderr(2, "w", closefd=False)
    sys.stdout, sys.stderr = _text_stream(out, sys.stdout), _text_stream(err, sys.stderr)
    return out


def _text_stream(raw: io.FileIO, previous: Any) -> io.TextIOWrapper:
    """Returns a text stream that writes to `raw`, with encoding, error handling and buffering of the previous stream, which may
    be None."""
    settings = {name: getattr(previous, name, None) for name in ("encoding", "errors", "line_buffering")}
    by_line = settings["line_buffering"] or getattr(previous, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), settings["encoding"] or "utf-8", settings["errors"] or "backslashreplace", None, by_line
    )


def _install_handlers(signals: _Signals) -> None:
    """Installs the signal handlers. Signals that are ignored, as under nohup, stay ignored."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:
            signal.signal(number, signals)
    default_hook = sys.unraisablehook

    def resend_signal(unraisable: Any) -> None:
        """Sends the signal again if its KeyboardInterrupt was raised where it cannot propagate, as in a finalizer."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            default_hook(unraisable)
        elif signals.received:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signals.received))
            timer.daemon = True
            timer.start()

    sys.unraisablehook = resend_signal


def _exit_immediately_on_signals() -> None:
    """Makes later signals end the process at once, without cleanup. Called after the command, when only exit handlers of
    libraries remain to run."""

    def die(number: int, _: Any) -> None:
        os.write(2, b"error: stopped\n")
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, die)
