"""The one error that a user can mend: a clear line, exit code 2, no traceback."""


class UserError(ValueError):
    """Bad input. The message names the file or field and the fix; commands print it as one line."""
