"""Exceptions caused by the user's input, which commands print as one line without a traceback (exit code 2)."""

EXIT_EXCEPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""Exceptions that end a process or a generator and are not errors. Every other exception may be an error, even if it is not
an Exception: panics of native code derive from BaseException."""


class UserError(ValueError):
    """Invalid input. The message names the file or field and the fix, in one line."""


class HostLost(UserError):
    """Another host does not respond. The input is not at fault, so commands exit with 1 and launchers may restart them."""


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM. Handled like Ctrl-C, but commands exit with another code."""
