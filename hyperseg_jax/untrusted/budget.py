"""What one record has asked for so far: masks, their pixels, time. Readers charge it before they take memory."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

from hyperseg_jax.untrusted import limits


@dataclasses.dataclass
class _Spent:
    masks: int = 0
    pixels: int = 0
    frames: int = 0
    began: float = dataclasses.field(default_factory=time.monotonic)


_open: contextvars.ContextVar[_Spent | None] = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def of_a_record() -> Iterator[None]:
    """Around the reading of one record. Inside of another, it is a part of that."""
    if _open.get() is not None:
        yield
        return
    token = _open.set(_Spent())
    try:
        yield
    finally:
        _open.reset(token)


def charge(masks: int, size: Sequence[int], where: str) -> None:
    """Charges masks of this (height, width) to the record. UserError where they are more than limits.masks or
    limits.mask_pixels, or where the record takes longer than limits.seconds. where: the record, for the message."""
    now = _open.get() or _Spent()
    now.masks += masks
    now.pixels += masks * math.prod(size)
    limits.check("masks", now.masks, where, "masks")
    limits.check("mask_pixels", now.pixels, where, "pixels of masks")
    check_time(where)


def charge_frame(size: Sequence[int], where: str) -> None:
    """Charges an image of this (height, width, ...) to the record: limits.frame_pixels."""
    now = _open.get() or _Spent()
    now.frames += math.prod(size[:2])
    limits.check("frame_pixels", now.frames, where, "pixels with the other frames of its record")
    check_time(where)


def check_time(where: str) -> None:
    """UserError where reading the record takes longer than limits.seconds; asked between its images and masks."""
    if (now := _open.get()) is not None:
        limits.check("seconds", round(time.monotonic() - now.began, 4), where, "seconds of reading behind it")
