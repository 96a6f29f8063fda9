"""A zip that appears whole or not at all."""

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
def whole_zip(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip to write into; it gets its name at the end, and is removed after an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        yield file


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
