"""What libtiff complains of inside Pillow's decoder. By itself it writes lines on stderr, and for some damage nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import PIL

_heard = threading.local()


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The list of what libtiff complains of in this thread, as its own words with placeholders."""
    before, complaints = getattr(_heard, "complaints", []), list[str]()
    _heard.complaints = complaints
    try:
        yield complaints
    finally:
        _heard.complaints = before


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def _hear(where: bytes | None, words: bytes | None, values: int | None) -> None:
    """TIFFErrorHandler. It is called in the thread that decodes."""
    getattr(_heard, "complaints", []).append((words or b"").decode(errors="replace"))


def _library() -> Any:
    """The libtiff that Pillow has loaded; None where none is found."""
    home = pathlib.Path(PIL.__file__).parent
    shipped = [*home.parent.glob("[pP]illow.libs/libtiff*"), *home.glob(".dylibs/libtiff*")]
    name = str(shipped[0]) if shipped else ctypes.util.find_library("tiff")
    try:
        return ctypes.CDLL(name) if name else None
    except OSError:
        return None


if (library := _library()) is not None:
    library.TIFFSetErrorHandler.argtypes, library.TIFFSetErrorHandler.restype = (ctypes.c_void_p,), ctypes.c_void_p
    library.TIFFSetErrorHandler(ctypes.cast(_hear, ctypes.c_void_p))
