"""Boxes of a COCO json for weakly supervised region captioning: the caption of a box is its category name.

COCO instances, Objects365, V3Det: {images: [{id, file_name, height, width}], annotations: [{id, image_id, category_id, bbox,
iscrowd, segmentation}], categories: [{id, name}]}. segmentation is only needed for points in masks.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.region_captions import DescribedRegion, RegionCaptions
from hyperseg_jax.errors import UserError


class CategoryBoxes(RegionCaptions):
    """Random access to the images of one file that have boxes (crowds excluded), in file order."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        mark: str = "box",
        seed: int = 0,
        masks: bool = False,
    ):
        """image_root: file_name is relative to this folder. mark, seed, masks: see region_captions."""
        self._records = CocoRecords(json_path)
        self._images = files.existing_folder(image_root)
        self.name = self._records.path.name
        self._items, errors = list[int | str](), dict[int, UserError]()
        for image_id, indices in self._records.annotations.items():
            try:
                if all([self._records.is_crowd(k) for k in indices]):  # a list, to check every flag
                    continue
            except UserError as error:
                errors[len(self._items)] = error.with_traceback(None)
            self._items.append(image_id)
        self._set_images(len(self._items), mark, seed, errors, masks)

    def _image_key(self, n: int) -> str:
        return str(self._items[n])

    def _image_path(self, file_name: str) -> pathlib.PurePosixPath:
        """Returns the path of an image below image_root."""
        return pathlib.PurePosixPath(file_name)

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        image = self._records.image(self._items[n])
        where = f"{self._records.path} image {self._items[n]}"
        path = self._image_path(fields.text_field(image, "file_name", where))
        return files.join_inside(self._images, path, f"{where} file_name"), fields.declared_image_size(image, where)

    def _regions(self, n: int, size: tuple[int, int]) -> Iterator[DescribedRegion]:
        for k in self._records.annotations[self._items[n]]:
            if self._records.is_crowd(k):
                continue
            annotation, where = self._records.annotation(k), self._records.where(k)
            category = fields.integer_field(annotation, "category_id", where)
            if category not in self._records.categories:
                why = f"category_id {category} is not among the categories of the file"
                report_problem("bad record", f"{where}: {why}; correct it")
                continue
            mask = (lambda a=annotation, w=where: decode_mask(a, size, w)) if "segmentation" in annotation else None
            box, names = fields.field(annotation, "bbox", where), (self._records.categories[category],)
            yield DescribedRegion(box, names, f"{where} bbox", mask)


def decode_mask(annotation: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """Returns the mask of a COCO annotation, bool [H, W]."""
    segmentation = fields.field(annotation, "segmentation", where)
    return masks.decode_object(segmentation, *size, f"{where} segmentation", polygons="coco")
