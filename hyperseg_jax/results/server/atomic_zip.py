"""Writes zip files atomically; encodes PNGs."""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import atomic_file


@contextlib.contextmanager
def atomic_zip(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file that is renamed to `path` at the end, and removed after an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        yield file


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 3] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
