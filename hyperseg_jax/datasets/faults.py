"""Records that cannot be read. The stream has no filter: such a record is an element that teaches nothing and says why."""

from __future__ import annotations

import numpy as np

from hyperseg_jax.datasets.check import MISREAD
from hyperseg_jax.errors import UserError

UNREADABLE = (*MISREAD, OSError)
"""What a record may raise on its way to arrays; anything else is a fault of the program."""
ROOM = 400
"""Bytes of a message on its way from a worker."""


def reason(error: BaseException) -> str:
    """One line of what was wrong with a record."""
    if isinstance(error, UserError | OSError):
        return " ".join(str(error).split())
    return f"is of another make ({type(error).__name__}: {error}); check the files with `hyperseg data check`"


NONE = np.zeros(ROOM, np.uint8)
"""No message."""


def written(text: str) -> np.ndarray:
    """A message as uint8 [ROOM], which travels in a batch; zeros for none."""
    if not text:
        return NONE
    codes = np.frombuffer(text.encode(errors="replace")[:ROOM], np.uint8)
    return np.pad(codes, (0, ROOM - len(codes)))


def read(codes: np.ndarray) -> str:
    """The message of `written`."""
    return codes.tobytes().rstrip(b"\0").decode(errors="ignore")
