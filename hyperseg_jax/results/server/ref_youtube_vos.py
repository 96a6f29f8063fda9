"""Ref-YouTube-VOS (and MeViS): a zip of Annotations/<video>/<expression>/<frame>.png, 0 and 255."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from hyperseg_jax.results.server.whole_zip import png, whole_zip

LONGEST = 255 - len(".png")
"""Bytes of the name of a file or folder, on common file systems."""


def is_file_name(name: str) -> bool:
    """Whether a name, with / between folders, can stand in a zip and be unpacked."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:  # half a character
        return False
    odd = (part in (b"", b".", b"..") or b"\\" in part or b"\0" in part or len(part) > LONGEST for part in parts)
    return len(parts) < 10 and not any(odd)


def write(path: pathlib.Path, rows: Iterable[tuple[str, str, Sequence[str], np.ndarray]]) -> None:
    """rows: (video, expression, names of its frames, masks bool [T, H, W]) of every expression, each once.

    ValueError where masks and frames differ in number, an expression or frame comes twice, or a name is none of a file.
    """
    seen = set()
    with whole_zip(path) as file:
        for video, expression, frames, masks in rows:
            if len(frames) != len(masks) or (video, expression) in seen:
                raise ValueError(f"{video}/{expression}: {len(masks)} masks for {len(frames)} frames, or given twice")
            seen.add((video, expression))
            if len(set(frames)) < len(frames) or not all(map(is_file_name, (video, expression, *frames))):
                raise ValueError(f"{video}/{expression}: two frames of one name, or a name that no file can have")
            for frame, mask in zip(frames, masks, strict=True):
                file.writestr(f"Annotations/{video}/{expression}/{frame}.png", png(np.where(mask, np.uint8(255), np.uint8(0))))
