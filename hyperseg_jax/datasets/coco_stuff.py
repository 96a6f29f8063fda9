"""COCO-Stuff, 171 classes (80 things, then 91 stuff): COCO images and stuffthingmaps/{split}/*.png of 0 to 181, 255 void."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets.class_names import COCO_STUFF, COCO_STUFF_GAPS, COCO_STUFF_IDS
from hyperseg_jax.datasets.files import as_path
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_in_folders


class CocoStuff(ImageLabels):
    """Random access to the images of a folder, sorted by name."""

    def __init__(self, image_root: str | os.PathLike, label_root: str | os.PathLike, **options: Any):
        """label_root: stuffthingmaps of the same split. options: see label_images.ImageLabels."""
        pairs = pair_files_in_folders(as_path(image_root), "*.jpg", as_path(label_root), ".jpg", ".png")
        values = {number: k for k, number in enumerate(COCO_STUFF_IDS)}
        super().__init__("coco_stuff", pairs, COCO_STUFF, values, (*COCO_STUFF_GAPS, 255), **options)
