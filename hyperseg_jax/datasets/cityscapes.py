"""Cityscapes, 19 classes: leftImg8bit/{split}/{city}/*_leftImg8bit.png, gtFine/{split}/{city}/*_gtFine_labelIds.png."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.class_names import CITYSCAPES, CITYSCAPES_IDS
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_in_folders

LAST_ID = 33  # labelIds start at 0; -1 (licence plate) is stored as 255 in 8 bits


class Cityscapes(ImageLabels):
    """Random access to the images of a split, sorted by city and name."""

    def __init__(self, folder: str | os.PathLike, split: str, **options: Any):
        """folder: contains leftImg8bit and gtFine. split: "train" or "val". options: see label_images.ImageLabels."""
        end, label_end = "_leftImg8bit.png", "_gtFine_labelIds.png"
        images, labels = (files.subpath(folder, name, split) for name in ("leftImg8bit", "gtFine"))
        pairs = pair_files_in_folders(images, f"*/*{end}", labels, end, label_end)
        void = [number for number in range(LAST_ID + 1) if number not in CITYSCAPES_IDS] + [255]
        values = {number: k for k, number in enumerate(CITYSCAPES_IDS)}
        super().__init__(f"cityscapes:{split}", pairs, CITYSCAPES, values, void, **options)
