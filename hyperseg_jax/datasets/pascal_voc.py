"""Pascal VOC 2012, 20 classes: JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{split}.txt.

0 is background and 255 the object border; open-vocabulary metrics of VOC 20 ignore both.
"""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.class_names import PASCAL_VOC20
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_of_list


class PascalVoc20(ImageLabels):
    """Random access to the images of a split, in the order of its list."""

    def __init__(self, folder: str | os.PathLike, split: str, **options: Any):
        """folder: VOCdevkit/VOC2012. split: "train", "val" or "trainval". options: see label_images.ImageLabels."""
        names, images = files.subpath(folder, "ImageSets", "Segmentation", f"{split}.txt"), files.subpath(folder, "JPEGImages")
        pairs = pair_files_of_list(names, images, files.subpath(folder, "SegmentationClass"), ".png")
        values = {k + 1: k for k in range(len(PASCAL_VOC20))}
        super().__init__(f"voc20:{split}", pairs, PASCAL_VOC20, values, (0, 255), **options)
