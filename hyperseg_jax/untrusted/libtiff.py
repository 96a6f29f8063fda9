"""Collects errors of libtiff in Pillow's decoder, which by default are only printed to stderr."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import PIL

_collected = threading.local()


@contextlib.contextmanager
def collect_errors() -> Iterator[list[str]]:
    """Yields a list to which the errors of libtiff in this thread are appended, as format strings with placeholders."""
    before, errors = getattr(_collected, "errors", []), list[str]()
    _collected.errors = errors
    try:
        yield errors
    finally:
        _collected.errors = before


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def _handle_error(module: bytes | None, message: bytes | None, values: int | None) -> None:
    """The TIFFErrorHandler, called in the thread that decodes."""
    getattr(_collected, "errors", []).append((message or b"").decode(errors="replace"))


def _find_library() -> Any:
    """Returns the libtiff library that Pillow has loaded; None if it is not found."""
    package = pathlib.Path(PIL.__file__).parent
    shipped = [*package.parent.glob("[pP]illow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    name = str(shipped[0]) if shipped else ctypes.util.find_library("tiff")
    try:
        return ctypes.CDLL(name) if name else None
    except OSError:
        return None


if (library := _find_library()) is not None:
    library.TIFFSetErrorHandler.argtypes, library.TIFFSetErrorHandler.restype = (ctypes.c_void_p,), ctypes.c_void_p
    library.TIFFSetErrorHandler(ctypes.cast(_handle_error, ctypes.c_void_p))
