"""Ref-YouTube-VOS (and MeViS): a zip of Annotations/<video>/<expression>/<frame>.png, 0 and 255."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from hyperseg_jax.results.server.atomic_zip import atomic_zip, encode_png
from hyperseg_jax.untrusted.printing import escaped_value

MAX_NAME_BYTES = 255 - len(".png")
"""Maximum bytes of a file or folder name on common file systems."""


def is_file_name(name: str) -> bool:
    """Returns whether a path, with / as separator, is valid in a zip and can be extracted."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    invalid = (part in (b"", b".", b"..") or b"\\" in part or b"\0" in part or len(part) > MAX_NAME_BYTES for part in parts)
    return len(parts) < 10 and not any(invalid)


def write(path: pathlib.Path, rows: Iterable[tuple[str, str, Sequence[str], np.ndarray]]) -> None:
    """Writes the masks of all expressions.

    rows: (video, expression, frame names, masks bool [T, H, W]) of every expression. Raises ValueError if the numbers of masks
    and frames differ, for a duplicate expression or frame, and for an invalid file name.
    """
    written = set()
    with atomic_zip(path) as file:
        for video, expression, frames, masks in rows:
            if len(frames) != len(masks):
                raise ValueError(f"{video}/{expression}: {len(masks)} masks for {len(frames)} frames; give one per frame")
            if (video, expression) in written:
                raise ValueError(f"{video}/{expression} is answered twice")
            written.add((video, expression))
            if len(set(frames)) < len(frames):
                raise ValueError(f"{video}/{expression}: duplicate frame names")
            if invalid := [name for name in (video, expression, *frames) if not is_file_name(name)]:
                raise ValueError(f"{video}/{expression}: {escaped_value(invalid[0])} cannot be a file name in a zip")
            for frame, mask in zip(frames, masks, strict=True):
                file.writestr(
                    f"Annotations/{video}/{expression}/{frame}.png", encode_png(np.where(mask, np.uint8(255), np.uint8(0)))
                )
