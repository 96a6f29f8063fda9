"""Objects365 v2 for region captioning: a COCO json with boxes; the caption of a box is its category name.

file_name is images/v1/patch8/x.jpg or images/v2/patch20/x.jpg; the archives unpack to patch8/x.jpg and patch20/x.jpg.
"""

from __future__ import annotations

import os
import pathlib

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.visual_prompts import box_regions
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt


class Objects365(PerImage):
    """Random access to the boxes of one file (crowds excluded), grouped by image in file order."""

    def __init__(self, json_path: str | os.PathLike, image_root: str | os.PathLike, *, prompts_per_example: int = 1):
        """json_path: zhiyuan_objv2_{train,val}.json. image_root: the folder with the patch folders."""
        self._records = CocoRecords(json_path)
        self._images = files.existing_folder(image_root)
        self.name = self._records.path.name
        self._items, errors = list[tuple[int | str, int]](), dict[int, UserError]()
        for image_id, indices in self._records.annotations.items():
            for k in indices:
                try:
                    if self._records.is_crowd(k):
                        continue
                except UserError as error:
                    errors[len(self._items)] = error.with_traceback(None)
                self._items.append((image_id, k))
        self._group_prompts(len(self._items), lambda n: self._items[n][0], prompts_per_example, errors)

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        image = self._records.image(self._items[n][0])
        where = f"{self._records.path} image {image['id']}"
        name = pathlib.PurePosixPath(files.text_field(image, "file_name", where))
        path = files.join_inside(self._images, pathlib.PurePosixPath(name.parent.name, name.name), where)
        return path, files.declared_image_size(image, where)

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        k = self._items[n][1]
        annotation, where = self._records.annotation(k), self._records.where(k)
        category = files.integer_field(annotation, "category_id", where)
        if category not in self._records.categories:
            report_problem("bad record", f"{where}: category_id {category} is not among the categories of the file; correct it")
        return Prompt(
            task="caption",
            answer=self._records.categories.get(category, ""),
            regions=box_regions(files.field(annotation, "bbox", where), size, where),
            key=str(files.id_field(annotation, "id", where)),
        )
