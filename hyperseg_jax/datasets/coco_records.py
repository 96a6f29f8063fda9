"""Looks up images, annotations and categories of a COCO json by id."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.id_index import IdIndex, read_categories


class CocoRecords:
    """The records of a COCO json. categories: id -> name, in file order. annotations: image id -> indices of its
    annotations, in file order."""

    def __init__(self, json_path: str | os.PathLike):
        """Raises UserError if a list is missing. Annotations of unknown images are reported as problems and skipped."""
        self.file = files.Json(json_path, dict)
        self.path = self.file.path
        self._index_records()

    def _index_records(self) -> None:
        """Sets `categories` and `annotations` from the content of the file."""
        path, content = str(self.path), self.file.content
        images, annotations = (fields.list_field(content, name, path) for name in ("images", "annotations"))
        self._images = IdIndex(images, "id", f"{path} images")
        self._annotation_ids = IdIndex(annotations, "id", f"{path} annotations", strict=False).duplicates_only()
        self.categories = read_categories(content, path)
        self.annotations: dict[int | str, list[int]] = {image_id: [] for image_id in self._images}
        for k, annotation in enumerate(annotations):
            image_id = fields.id_field(annotation, "image_id", self.where(k))
            if image_id in self.annotations:
                self.annotations[image_id].append(k)
            else:
                report_problem(
                    "bad record",
                    f"{self.where(k)}: image_id {image_id} is not among the images of the file; correct or remove it",
                )

    def where(self, k: int) -> str:
        """Returns the location of annotation k for messages."""
        return f"{self.path} annotations#{k}"

    def image(self, image_id: int | str) -> dict[str, Any]:
        return self.file.content["images"][self._images[image_id]]

    def has_image(self, image_id: int | str) -> bool:
        return image_id in self._images

    def annotation(self, k: int) -> dict[str, Any]:
        """Returns annotation k. Reports a problem if another annotation has its id."""
        row = self.file.content["annotations"][k]
        self._annotation_ids.check(row, self.where(k))
        return row

    def is_crowd(self, k: int) -> bool:
        """Whether annotation k is a crowd. Reports a problem if its flag is none."""
        return fields.optional_flag_field(self.file.content["annotations"][k], "iscrowd", self.where(k))
