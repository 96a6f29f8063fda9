"""Pascal Context, 59 classes, on the images of VOC 2010: JPEGImages/*.jpg, ImageSets/SegmentationContext/{split}.txt, and
either the original trainval/*.mat ("LabelMap" of 459 numbers) or SegmentationClassContext/*.png (0 is other, 1 to 59)."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.class_names import PASCAL_CONTEXT59, PASCAL_CONTEXT59_IDS
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_of_list

LAST_ID = 459


class PascalContext59(ImageLabels):
    """Random access to the images of a split, in the order of its list. The remaining 400 classes are void."""

    def __init__(self, folder: str | os.PathLike, split: str, **options: Any):
        """folder: VOCdevkit/VOC2010; trainval is used if it exists. split: "train" or "val". options: see
        label_images.ImageLabels."""
        names = files.subpath(folder, "ImageSets", "SegmentationContext", f"{split}.txt")
        images, originals = files.subpath(folder, "JPEGImages"), files.subpath(folder, "trainval")
        if originals.is_dir():
            pairs = pair_files_of_list(names, images, originals, ".mat")
            values = {number: k for k, number in enumerate(PASCAL_CONTEXT59_IDS)}
            void = [number for number in range(LAST_ID + 1) if number not in values]
        else:
            pairs = pair_files_of_list(names, images, files.subpath(folder, "SegmentationClassContext"), ".png")
            values, void = {k + 1: k for k in range(len(PASCAL_CONTEXT59))}, [0, 255]
        super().__init__(f"context59:{split}", pairs, PASCAL_CONTEXT59, values, void, **options)
