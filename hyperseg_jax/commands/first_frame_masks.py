"""The files of `hyperseg predict --first-frame-masks`: the masks of the objects of a video."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.datasets.labels import read_label_image
from hyperseg_jax.datasets.video_folders import MODES, VOID
from hyperseg_jax.errors import UserError

FLAG = "--first-frame-masks"


def read_masks(
    given: Sequence[pathlib.Path], size: tuple[int, int], numbers: Mapping[str, int] | None
) -> dict[int, np.ndarray]:
    """Returns the object ids of frames, uint8 [H, W], by the number of the frame.

    given: one PNG of object ids, one PNG per object, or a folder of PNGs of object ids, named as their frames. size: (height,
    width) of the video. numbers: the number of each frame by its name; None: the names are the numbers. Raises UserError if a
    file is no mask of this size, masks of objects overlap, or none shows an object.
    """
    first, *others = given
    if first.is_dir():
        if others:
            raise UserError(f"{FLAG} {first}: is a folder; give it alone, or give files only")
        files = sorted(first.glob("*.png"))
        masks = {_frame_number(path, numbers): _read_ids(path, size) for path in files}
    elif others:
        masks = {0: _join([_read_ids(path, size) > 0 for path in given], given)}
    else:
        ids = _read_ids(first, size)
        masks = {0: np.where(ids == VOID, np.uint8(1), ids) if set(np.unique(ids)) <= {0, VOID} else ids}
    if not any(((ids > 0) & (ids < VOID)).any() for ids in masks.values()):
        raise UserError(f"{FLAG} {first}: shows no object; give PNGs whose pixels are object ids, from 1 to {VOID - 1}")
    return masks


def _read_ids(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    ids = read_label_image(path, size, what="mask", whose="frame", modes=MODES)
    assert ids is not None  # only a check of a dataset continues without a file
    return ids.astype(np.uint8)


def _join(objects: Sequence[np.ndarray], given: Sequence[pathlib.Path]) -> np.ndarray:
    """Returns the ids of objects, in their order from 1."""
    if len(objects) >= VOID:
        raise UserError(f"{FLAG}: {len(objects)} files; give at most {VOID - 1} objects")
    ids = np.zeros(objects[0].shape, np.uint8)
    for k, (mask, path) in enumerate(zip(objects, given, strict=True), 1):
        if not mask.any():
            raise UserError(f"{FLAG} {path}: has no pixel above 0; mark the object")
        if (ids[mask] > 0).any():
            raise UserError(f"{FLAG} {path}: overlaps {given[ids[mask].max() - 1]}; a pixel belongs to one object")
        ids[mask] = k
    return ids


def _frame_number(path: pathlib.Path, numbers: Mapping[str, int] | None) -> int:
    name = path.stem
    if numbers is None and name.isascii() and name.isdecimal() and len(name) < 10:
        return int(name)
    if numbers is None or name not in numbers:
        raise UserError(f"{FLAG} {path}: the video has no frame {name}; name each mask as its frame")
    return numbers[name]
