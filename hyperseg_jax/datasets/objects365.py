"""Objects365 v2 for region captioning: a COCO json with boxes; the caption of a box is its category name.

file_name is images/v1/patch8/x.jpg or images/v2/patch20/x.jpg; the archives unpack to patch8/x.jpg and patch20/x.jpg.
"""

from __future__ import annotations

import pathlib

from hyperseg_jax.datasets.category_boxes import CategoryBoxes


class Objects365(CategoryBoxes):
    """The images of zhiyuan_objv2_{train,val}.json. image_root: the folder with the patch folders."""

    def _image_path(self, file_name: str) -> pathlib.PurePosixPath:
        name = pathlib.PurePosixPath(file_name)
        return pathlib.PurePosixPath(name.parent.name, name.name)
