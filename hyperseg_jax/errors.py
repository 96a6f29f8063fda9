"""The one error that a user can mend: a clear line, exit code 2, no traceback."""

ENDING = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a process or a generator and is no fault. Anything else may be one, even if it is no Exception: what native code
raises where it panics is none."""


class UserError(ValueError):
    """Bad input. The message names the file or field and the fix; commands print it as one line."""


class HostLost(UserError):
    """Another host is not there. Nothing is wrong with the input, so commands end with 1 and launchers may start them again."""
