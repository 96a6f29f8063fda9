"""ADE20K, 150 classes (ADEChallengeData2016): images/{split}/*.jpg, annotations/{split}/*.png.

Two kinds of label images exist, which differ by one: the public ones have 0 for "other" and 1 to 150 for the classes; converted
ones have 0 to 149 for the classes, and 150 or 255 for "other".
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.class_names import ADE20K
from hyperseg_jax.datasets.label_images import ImageLabels, Pairs, pair_files_in_folders
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import images
from hyperseg_jax.untrusted.bad_file import BadFile

LABELS = {"public": (1, (0,)), "raw": (0, (150, 255))}
"""Number of the first class, and numbers of pixels without a class."""
COMPARED, ENOUGH = 16, 8
"""Label images that are looked at to see which kind they are, and how many of them are needed."""
MOST, FEW = 0.5, 0.1
"""Shares of label images with a number of "other" of the raw kind: in more than MOST, the images are raw, since nearly all have
unlabelled pixels; in less than FEW, they are public, where 150 is the rare class flag."""


class Ade20k(ImageLabels):
    """Random access to the images of a split, sorted by name."""

    def __init__(self, folder: str | os.PathLike, split: str, *, labels: str = "public", **options: Any):
        """folder: ADEChallengeData2016. split: "training" or "validation". labels: kind of the label images, a key of LABELS.
        options: see label_images.ImageLabels. Raises UserError if the label images are of the other kind."""
        if labels not in LABELS:
            raise UserError(f"labels={labels!r} is unknown; choose one of {', '.join(LABELS)}")
        image_root, label_root = (files.subpath(folder, name, split) for name in ("images", "annotations"))
        pairs = pair_files_in_folders(image_root, "*.jpg", label_root, ".jpg", ".png")
        _check_kind(pairs, labels)
        first, void = LABELS[labels]
        values = {k + first: k for k in range(len(ADE20K))}
        super().__init__(f"ade20k:{split}", pairs, ADE20K, values, void, **options)


def _check_kind(pairs: Pairs, labels: str) -> None:
    """Raises a Problem if some label images show that all are of the other kind than `labels`. Unreadable ones are left to the
    reader."""
    chosen = np.linspace(0, len(pairs) - 1, min(COMPARED, len(pairs))).astype(int) if len(pairs) >= ENOUGH else ()
    found = [has for k in chosen if (has := _has_raw_void(*pairs[k][1])) is not None]
    share = sum(found) / len(found) if len(found) >= ENOUGH else -1.0
    kind = "raw" if share > MOST else "public" if 0 <= share < FEW else labels
    if kind != labels:
        raise Problem(
            "bad mask",
            f"{pairs[0][1][0]}: its label images are {kind} ones ({sum(found)} of {len(found)} have 150 or 255), and the "
            f"reader has labels={labels!r}, so each class would be its neighbour; give labels={kind!r}",
        )


def _has_raw_void(folder: pathlib.Path, name: str) -> bool | None:
    """Returns whether a label image has a number that raw ones have for "other"; None if it is not readable."""
    try:
        numbers = images.read_numbers(files.join_inside(folder, name, str(folder)), ("L", "P"), "label image")
    except (BadFile, OSError, UserError):
        return None
    return bool(np.isin(numbers, LABELS["raw"][1]).any())
