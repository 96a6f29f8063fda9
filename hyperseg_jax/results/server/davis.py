"""DAVIS, semi-supervised: a zip of <video>/<frame>.png, object ids as palette indices."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from hyperseg_jax.results.objects import encode_ids
from hyperseg_jax.results.server.atomic_zip import atomic_zip


def write(path: pathlib.Path, rows: Iterable[tuple[str, Sequence[str], np.ndarray]]) -> None:
    """Writes the object maps of all videos. rows: (video, frame names, object ids uint8 [T, H, W]) of each video."""
    with atomic_zip(path) as file:
        for video, frames, maps in rows:
            for frame, ids in zip(frames, maps, strict=True):
                file.writestr(f"{video}/{frame}.png", encode_ids(ids))
