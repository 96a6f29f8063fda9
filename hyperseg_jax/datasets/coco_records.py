"""The lists of a COCO json {images, annotations, categories}, looked up by number."""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.id_index import IdIndex, index_categories


class CocoRecords:
    """images, categories: by id, in the order of the file. annotations: the numbers of those of each image."""

    def __init__(self, json_path: str | os.PathLike):
        """UserError for a missing list; an annotation of an unknown image is a problem, and left out."""
        self.file = files.Json(json_path, dict)
        self.path = self.file.path
        self._index()

    def _index(self) -> None:
        path, content = str(self.path), self.file.content
        images, notes, rows = (files.list_field(content, name, path) for name in ("images", "annotations", "categories"))
        self._images = IdIndex(images, "id", f"{path} images")
        self.categories: dict[int, str] = {
            number: files.text_field(rows[k], "name", f"{path} categories#{k}")
            for number, k in index_categories(rows, f"{path} categories").items()
        }
        self.annotations: dict[int | str, list[int]] = {number: [] for number in self._images}
        for k, note in enumerate(notes):
            number = files.record_id(note, "image_id", self.where(k))
            if number in self.annotations:
                self.annotations[number].append(k)
            else:
                report_problem(
                    "bad record",
                    f"{self.where(k)}: image_id {number} is not among the images of the file; correct or remove it",
                )

    def where(self, k: int) -> str:
        """What annotation k is called in messages."""
        return f"{self.path} annotations#{k}"

    def image(self, number: int | str) -> dict[str, Any]:
        return self.file.content["images"][self._images[number]]

    def has_image(self, number: int | str) -> bool:
        return number in self._images

    def annotation(self, k: int) -> dict[str, Any]:
        return self.file.content["annotations"][k]

    def is_crowd(self, k: int) -> bool:
        return files.flag(self.annotation(k), "iscrowd", self.where(k), False)
