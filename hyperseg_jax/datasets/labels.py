"""Reads label images: one number per pixel, in a png, a tif, or the "LabelMap" of a .mat file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.untrusted import budget, images, label_maps
from hyperseg_jax.untrusted.bad_file import BadFile

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
        budget.check_time(str(path))
        labels = label_maps.read_matrix(path, "LabelMap") if path.suffix == ".mat" else images.read_numbers(path, modes, what)
    except FileNotFoundError:
        report_problem("missing file", f"{path}: no such {what}; check the folder of the annotations")
        return None
    except BadFile as error:
        report_problem("unreadable image", f"{path}: {error}")
        return None
    if labels.shape != tuple(size):
        report_problem(
            "wrong size",
            f"{path}: is {labels.shape[1]}x{labels.shape[0]} pixels, its {whose} {size[1]}x{size[0]}; "
            "both must have the same size",
        )
        return None
    return labels
