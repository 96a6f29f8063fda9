"""Accumulated resource use of one record: masks, pixels, time. Readers charge it before they allocate memory."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

from hyperseg_jax.untrusted import limits


@dataclasses.dataclass
class _Usage:
    masks: int = 0
    pixels: int = 0
    frames: int = 0
    began: float = dataclasses.field(default_factory=time.monotonic)


_current: contextvars.ContextVar[_Usage | None] = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def record_budget() -> Iterator[None]:
    """Counts the resource use of one record. A nested call counts towards the outer record."""
    if _current.get() is not None:
        yield
        return
    token = _current.set(_Usage())
    try:
        yield
    finally:
        _current.reset(token)


def charge_masks(masks: int, size: Sequence[int], where: str) -> None:
    """Charges masks of this (height, width) to the record. Raises UserError if the record exceeds limits.masks,
    limits.mask_pixels or limits.seconds. where: the record, for the message."""
    usage = _current.get() or _Usage()
    usage.masks += masks
    usage.pixels += masks * math.prod(size)
    limits.check_limit("masks", usage.masks, where, "masks")
    limits.check_limit("mask_pixels", usage.pixels, where, "pixels of masks")
    check_time(where)


def charge_frame(size: Sequence[int], where: str) -> None:
    """Charges an image of this (height, width, ...) to the record. Raises UserError if it exceeds limits.frame_pixels."""
    usage = _current.get() or _Usage()
    usage.frames += math.prod(size[:2])
    limits.check_limit("frame_pixels", usage.frames, where, "pixels including the other frames of its record")
    check_time(where)


def check_time(where: str) -> None:
    """Raises UserError if reading the record takes longer than limits.seconds; called between its images and masks."""
    if (usage := _current.get()) is not None:
        limits.check_limit("seconds", round(time.monotonic() - usage.began, 4), where, "seconds of reading time")
