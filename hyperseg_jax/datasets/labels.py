"""Label pictures: one number a pixel, in a png, a tif, or the "LabelMap" of a .mat file."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from hyperseg_jax.datasets.problems import complain

MODES = ("1", "L", "P", "I", "I;16")


def read_labels(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray | None:
    """The numbers of a label picture, integers [H, W].

    size: (height, width) of the picture that it belongs to. UserError for a file that is missing, truncated, of colours
    or of another size; None where a check goes on without it.
    """
    try:
        labels = _label_map(path) if path.suffix == ".mat" else _label_picture(path)
    except FileNotFoundError:
        complain("missing file", f"{path}: no such label picture; check the folder of the annotations")
        return None
    except Exception as error:  # SciPy's and Pillow's readers raise of every kind on a damaged file
        complain("unreadable picture", f"{path}: cannot be read as a label picture ({error}); download it again or remove it")
        return None
    if labels.shape != tuple(size):
        complain(
            "wrong size",
            f"{path}: is {labels.shape[1]}x{labels.shape[0]} pixels, its picture {size[1]}x{size[0]}; "
            "labels and picture must be of one size",
        )
        return None
    return labels


def _label_picture(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as file:
        if file.mode not in MODES:
            raise ValueError(f"it has colours (mode {file.mode}) where one number a pixel belongs")
        return np.array(file)


def _label_map(path: pathlib.Path) -> np.ndarray:
    from scipy.io import loadmat

    labels = loadmat(path, variable_names=["LabelMap"])["LabelMap"]
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise ValueError("its LabelMap is no matrix of whole numbers")
    return labels
