"""Ref-YouTube-VOS (and MeViS): a zip of Annotations/<video>/<expression>/<frame>.png, 0 and 255."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from hyperseg_jax.results.server.whole_zip import png, whole_zip


def write(path: pathlib.Path, rows: Iterable[tuple[str, str, Sequence[str], np.ndarray]]) -> None:
    """rows: (video, expression, names of its frames, masks bool [T, H, W]) of every expression, each once.

    ValueError where masks and frames differ in number or an expression comes twice.
    """
    seen = set()
    with whole_zip(path) as file:
        for video, expression, frames, masks in rows:
            if len(frames) != len(masks) or (video, expression) in seen:
                raise ValueError(f"{video}/{expression}: {len(masks)} masks for {len(frames)} frames, or given twice")
            seen.add((video, expression))
            for frame, mask in zip(frames, masks, strict=True):
                file.writestr(f"Annotations/{video}/{expression}/{frame}.png", png(np.where(mask, np.uint8(255), np.uint8(0))))
