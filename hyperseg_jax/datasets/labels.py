"""Reads label images: one number per pixel, in a png, a tif, or the "LabelMap" of a .mat file; and masks: black and white
images."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from hyperseg_jax.datasets.check_errors import Problem, note_problem, report_problem
from hyperseg_jax.untrusted import budget, images, label_maps
from hyperseg_jax.untrusted.bad_file import BadFile

T = TypeVar("T")

MODES = ("1", "L", "P", "I", "I;16")


def read_label_image(
    path: pathlib.Path,
    size: tuple[int, int],
    *,
    what: str = "label image",
    whose: str = "image",
    modes: Sequence[str] = MODES,
) -> np.ndarray | None:
    """Reads the pixel values of a label image, integers [H, W].

    size: (height, width) of its image. what, whose: names of the label image and of its image for messages. modes: accepted
    Pillow modes. Raises UserError if the file is missing, truncated, a colour image or of another size; during a check, reports
    the problem and returns None.
    """
    try:
        if path.suffix == ".mat":
            labels = _read(path, what, lambda: label_maps.read_matrix(path, "LabelMap"))
        else:
            labels = _read(path, what, lambda: images.read_numbers(path, modes, what))
        _check_size(labels, size, path, whose)
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return None
    return labels


def read_mask_image(
    path: pathlib.Path, size: tuple[int, int], *, what: str = "mask", whose: str = "image"
) -> np.ndarray | None:
    """Reads a mask of black and white, bool [H, W] (untrusted/mask_images); of a .mat file, the pixels above 0. During a check,
    notes a mask that has other values. The arguments and errors are those of `read_label_image`."""
    if path.suffix == ".mat":
        labels = read_label_image(path, size, what=what, whose=whose)
        return None if labels is None else labels > 0
    try:
        mask, is_grey = _read(path, what, lambda: images.read_mask(path, what))
        _check_size(mask, size, path, whose)
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return None
    if is_grey:
        note_grey_mask(str(path))
    return mask


def note_grey_mask(where: str) -> None:
    """During a check, records that a mask has values between black and white."""
    why = "has values between black and white, so the mask is what is brighter than the middle"
    note_problem("bad mask", f"{where}: {why}; save it in black and white, not as JPEG")


def _read(path: pathlib.Path, what: str, read: Callable[[], T]) -> T:
    """Returns read(). Raises a Problem if the file is missing or damaged."""
    budget.check_time(str(path))
    try:
        return read()
    except FileNotFoundError as error:
        raise Problem("missing file", f"{path}: no such {what}; check the folder of the annotations") from error
    except BadFile as error:
        raise Problem("unreadable image", f"{path}: {error}") from error


def _check_size(pixels: np.ndarray, size: tuple[int, int], path: pathlib.Path, whose: str) -> None:
    """Raises a Problem if a label image has another size than its image."""
    if pixels.shape == tuple(size):
        return
    fix = "both must have the same size"
    if pixels.shape == tuple(size)[::-1]:
        fix += f"; if the {whose} has an EXIF orientation, draw on the upright {whose}"
    sizes = f"is {pixels.shape[1]}x{pixels.shape[0]} pixels, its {whose} {size[1]}x{size[0]}"
    raise Problem("wrong size", f"{path}: {sizes}; {fix}")
