"""ADE20K, 150 classes (ADEChallengeData2016): images/{split}/*.jpg, annotations/{split}/*.png of 0 (other) and 1 to 150."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.class_names import ADE20K
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_in_folders


class Ade20k(ImageLabels):
    """Random access to the images of a split, sorted by name."""

    def __init__(self, folder: str | os.PathLike, split: str, **options: Any):
        """folder: ADEChallengeData2016. split: "training" or "validation". options: see label_images.ImageLabels."""
        images, labels = (files.subpath(folder, name, split) for name in ("images", "annotations"))
        pairs = pair_files_in_folders(images, "*.jpg", labels, ".jpg", ".png")
        values = {k + 1: k for k in range(len(ADE20K))}
        super().__init__(f"ade20k:{split}", pairs, ADE20K, values, (0,), **options)
