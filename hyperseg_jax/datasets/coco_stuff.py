"""COCO-Stuff, 171 classes (80 things, then 91 stuff): COCO images and stuffthingmaps/{split}/*.png of 0 to 181, 255 void."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets.class_names import COCO_STUFF, COCO_STUFF_IDS, COCO_STUFF_WORDS, COCO_UNSEEN
from hyperseg_jax.datasets.files import as_path
from hyperseg_jax.datasets.label_images import ImageLabels, pair_files_in_folders
from hyperseg_jax.errors import UserError

NAMES = {"official": COCO_STUFF, "words": COCO_STUFF_WORDS}
"""How classes are named: as in the files of the dataset ("wall-brick"), or as IFSeg's authors write them ("brick wall")."""
SUBSETS = {"all": tuple(range(len(COCO_STUFF))), "unseen": tuple(map(COCO_STUFF_WORDS.index, COCO_UNSEEN))}
"""Classes that are scored, in order: all, or the 15 that are held out in zero-shot segmentation."""
NUMBERS = 182
"""Label images have numbers below this one, and 255."""


class CocoStuff(ImageLabels):
    """Random access to the images of a folder, sorted by name."""

    def __init__(
        self,
        image_root: str | os.PathLike,
        label_root: str | os.PathLike,
        *,
        names: str = "official",
        subset: str = "all",
        **options: Any,
    ):
        """label_root: stuffthingmaps of the same split. names: a key of NAMES. subset: a key of SUBSETS; pixels of all other
        classes are ignored, and images without any pixel of the subset are kept. options: see label_images.ImageLabels."""
        for field, value, known in (("names", names, NAMES), ("subset", subset, SUBSETS)):
            if value not in known:
                raise UserError(f"{field}={value!r} is unknown; choose one of {', '.join(known)}")
        pairs = pair_files_in_folders(as_path(image_root), "*.jpg", as_path(label_root), ".jpg", ".png")
        classes = [NAMES[names][k] for k in SUBSETS[subset]]
        values = {COCO_STUFF_IDS[k]: position for position, k in enumerate(SUBSETS[subset])}
        void = [number for number in (*range(NUMBERS), 255) if number not in values]
        super().__init__("coco_stuff", pairs, classes, values, void, **options)
