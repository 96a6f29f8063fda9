"""Exit codes and error lines of failed commands, the same in one process and in each process of a multi-host run."""

from __future__ import annotations

import dataclasses
import errno
import os

from hyperseg_jax.errors import HostLost, Terminated, UserError
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, first_line

FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space, or give a folder on another disk; "),
    errno.EFBIG: "give a folder on a disk that allows larger files; ",
    errno.EROFS: "give another folder; ",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give another folder, or change the permissions; "),
}
"""How to fix errors of files and folders, by number."""
STANDARD_OUTPUT = "standard output"
"""File name of write errors of the standard output."""
WHERE = "--traceback shows where the error occurred"


@dataclasses.dataclass(frozen=True)
class Failure:
    """How a command ends. code: exit code. line: the error message, "" to end without one."""

    code: int
    line: str


@dataclasses.dataclass
class _Settings:
    """with_traceback: whether the command has the option --traceback. signal: the signal that ends the command, 0 if none; a
    library may have turned its KeyboardInterrupt into another exception."""

    with_traceback: bool = False
    signal: int = 0


settings = _Settings()


def describe(error: BaseException) -> Failure:
    """Returns exit code and error line of a command that ends with this exception: 2 for invalid input, missing files, full
    disks and too little memory; 130 or 143 after Ctrl-C or SIGTERM; else 1."""
    if settings.signal:
        return Failure(128 + settings.signal, "stopped")
    if isinstance(error, UserError | BadFile):
        return Failure(1 if isinstance(error, HostLost) else 2, str(error))
    if isinstance(error, BrokenPipeError):
        return Failure(1, "")
    if isinstance(error, KeyboardInterrupt):
        return Failure(143 if isinstance(error, Terminated) else 130, str(error) or "stopped")
    if isinstance(error, SystemExit):
        is_code = error.code is None or isinstance(error.code, int)
        return Failure(int(error.code or 0), "") if is_code else Failure(1, str(error.code))
    if isinstance(error, OSError):
        if error.filename == STANDARD_OUTPUT:
            return Failure(2, f"{STANDARD_OUTPUT}: {error.strerror}; free space, or redirect it elsewhere")
        fix = FIXES.get(error.errno or 0, "")
        if error.filename is not None or fix:
            name = "a file" if error.filename is None else os.fsdecode(error.filename)
            return Failure(2, f"{name}: {error.strerror}; {fix}{WHERE}")
    if _is_out_of_memory(error):
        return Failure(
            2,
            f"there is not enough memory ({escaped(first_line(error))}); use a smaller model, image or batch, or a machine "
            f"with more memory; {WHERE}",
        )
    message = f"{type(error).__name__}: {escaped(first_line(error))}"
    return Failure(
        1, f"internal error of hyperseg, not caused by your input ({message}); --traceback shows where; please report it"
    )


def is_from_device(error: BaseException) -> bool:
    """Returns whether JAX's runtime raised an exception. Its type depends on the version of JAX."""
    return type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError")


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the host or a device has too little memory."""
    return isinstance(error, MemoryError) or (is_from_device(error) and "RESOURCE_EXHAUSTED" in str(error))
