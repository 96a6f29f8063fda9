"""Exceptions caused by the user's input, printed as one line without a traceback (exit code 2)."""

EXIT_EXCEPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""Exceptions that end a process or a generator and are not errors. Every other exception may be an error, even if it is not
an Exception: panics of native code derive from BaseException."""


class UserError(ValueError):
    """Invalid input. The message names the file or field and the fix; commands print it as one line."""


class HostLost(UserError):
    """Another host does not respond. The input is not at fault, so commands exit with 1 and launchers may restart them."""
