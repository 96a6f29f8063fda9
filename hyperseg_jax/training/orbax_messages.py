"""Drops what Python prints about tasks that Orbax leaves behind after a failed read or save.

If one array fails, Orbax closes its event loop and forgets the tasks of the other arrays. They end later, also at the end of
the process, and each would print a traceback. The failure itself is reported in one line.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

LIBRARIES = ("orbax", "tensorstore")


def drop_task_messages() -> None:
    """Installs the filters, unless they are installed already."""
    if not isinstance(sys.unraisablehook, _UnraisableFilter):
        sys.unraisablehook = _UnraisableFilter(sys.unraisablehook)
    if _is_wanted not in (logger := logging.getLogger("asyncio")).filters:
        logger.addFilter(_is_wanted)


class _UnraisableFilter:
    """A sys.unraisablehook that drops coroutines of Orbax, and results that TensorStore passes to a closed event loop."""

    def __init__(self, hook: Callable[[Any], object]) -> None:
        self._hook = hook

    def __call__(self, info: Any) -> None:
        is_left = inspect.iscoroutine(info.object) and _names_library(info.object.cr_code.co_filename)
        is_late = info.object is None and str(info.exc_value) == "Event loop is closed"
        if not is_left and not is_late:
            self._hook(info)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio is not about a task of Orbax, which the message names."""
    return not _names_library(record.getMessage())


def _names_library(text: str) -> bool:
    return any(name in text for name in LIBRARIES)
