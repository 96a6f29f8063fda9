"""Images that a model has labelled: a folder of label images with labels.json, for the images of another folder.

    {"classes": ["giraffe|camelopard", "grass"], "confidence": 0.5, "steps": 2000, "folder": "/photos",
     "images": ["a.jpg", "b.png"]}

The label image of a.jpg is a.jpg.png. It has 0 for pixels that the model was not sure of, and k + 1 for class k.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import atomic_file, write_text
from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.id_index import IdIndex, note_duplicates
from hyperseg_jax.datasets.label_images import ImageLabels
from hyperseg_jax.datasets.labels import MODES
from hyperseg_jax.untrusted import images

INDEX = "labels.json"


class PseudoLabels(ImageLabels):
    """Random access to the labelled images, in the order of labels.json."""

    def __init__(self, folder: str | os.PathLike, image_root: str | os.PathLike, **options: Any):
        """folder: with labels.json, as `hyperseg adapt --pseudo-labels` writes it. image_root: the folder of the images.
        options: see label_images.ImageLabels."""
        labels, root = files.existing_folder(folder), files.existing_folder(image_root)
        content, where = read_index(labels), str(labels / INDEX)
        rows = fields.list_field(content, "classes", where)
        classes = [fields.name_field({f"classes[{k}]": name}, f"classes[{k}]", where) for k, name in enumerate(rows)]
        names = fields.text_list_field(content, "images", where)
        IdIndex([{"image": name} for name in names], "image", f"{where} images").report_duplicates()
        note_duplicates(classes, f"{where} classes", "names")
        pairs = [((root, name), (labels, label_file(name))) for name in names]
        super().__init__(labels.name, pairs, classes, {k + 1: k for k in range(len(classes))}, (0,), **options)


def label_file(image: str) -> str:
    """Returns the name of the label image of an image."""
    return f"{image}.png"


def read_index(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of labels.json in a folder."""
    path = files.join_inside(folder, INDEX, str(folder))
    return dict(files.Json(path, dict).content)


def write_index(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes labels.json in a folder."""
    write_text(folder / INDEX, json.dumps(content, indent=2) + "\n")


def read_label_numbers(path: pathlib.Path) -> np.ndarray | None:
    """Returns the numbers of a label image, int [H, W]; None if it does not exist."""
    return images.read_numbers(path, MODES, "label image") if os.path.lexists(path) else None


def write_label_image(path: pathlib.Path, numbers: np.ndarray, count: int) -> None:
    """Writes a label image. numbers: int [H, W], 0 or the class plus 1. count: number of classes."""
    with atomic_file(path) as new:
        Image.fromarray(numbers.astype(np.uint8 if count < 256 else np.uint16)).save(new)
