"""Label images: one number a pixel, in a png, a tif, or the "LabelMap" of a .mat file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.untrusted import budget, images, label_maps
from hyperseg_jax.untrusted.bad_file import BadFile

MODES = ("1", "L", "P", "I", "I;16")


def read_labels(
    path: pathlib.Path,
    size: tuple[int, int],
    *,
    what: str = "label image",
    whose: str = "image",
    modes: Sequence[str] = MODES,
) -> np.ndarray | None:
    """The numbers of a label image, integers [H, W].

    size: (height, width) of the image that it belongs to. what: it is, and whose size it must have, for messages. modes: of
    Pillow, that are accepted. UserError for a file that is missing, truncated, of colours or of another size; None where a
    check goes on without it.
    """
    try:
        budget.check_time(str(path))
        labels = label_maps.read(path, "LabelMap") if path.suffix == ".mat" else images.numbers(path, modes, what)
    except FileNotFoundError:
        report_problem("missing file", f"{path}: no such {what}; check the folder of the annotations")
        return None
    except BadFile as error:
        report_problem("unreadable image", f"{path}: {error}")
        return None
    if labels.shape != tuple(size):
        report_problem(
            "wrong size",
            f"{path}: is {labels.shape[1]}x{labels.shape[0]} pixels, its {whose} {size[1]}x{size[0]}; both must be of one size",
        )
        return None
    return labels
