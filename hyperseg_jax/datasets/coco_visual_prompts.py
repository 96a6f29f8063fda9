"""COCO instances with generated visual prompts: points, scribbles, boxes and coarse masks, as in COCO-Interactive but without
its annotation file.

The marks of an object depend only on the seed and its annotation id, so they are identical in every run and order.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import fields, masks
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.interactive import CocoInteractive
from hyperseg_jax.datasets.visual_prompts import draw_marks
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Region


class CocoVisualPrompts(CocoInteractive):
    """Random access to the images with objects (crowds excluded), in file order.

    json_path: instances_*.json. The other arguments are those of CocoInteractive; the seed also determines the marks.
    """

    def _open_annotations(self, json_path: str | os.PathLike) -> int:
        self._records = CocoRecords(json_path)
        self._name = self._records.path.name
        self._items = []
        for image_id, indices in self._records.annotations.items():
            try:
                objects = [k for k in indices if not self._records.is_crowd(k)]
            except UserError:  # raised again when the image is read
                objects = indices
            if objects:
                self._items.append((image_id, objects))
        return len(self._items)

    def _read_record(self, index: int) -> tuple[str, dict, list[dict]]:
        image_id, objects = self._items[index]
        objects = [k for k in objects if not self._records.is_crowd(k)]
        anns = [self._records.annotation(k) | {"where": self._records.where(k)} for k in objects]
        return f"{self._records.path} image {image_id}", self._records.image(image_id), anns

    def _decode_target(self, ann: dict, size: tuple[int, int], where: str) -> np.ndarray:
        segmentation = fields.field(ann, "segmentation", ann["where"])
        return masks.decode_object(segmentation, *size, f"{ann['where']} segmentation", polygons="coco")

    def _draw_random_mark(self, ann: dict, rng: np.random.Generator, size: tuple[int, int], where: str) -> Region | None:
        target = self._decode_target(ann, size, where)
        if not target.any():
            return None
        annotation_id = fields.integer_field(ann, "id", ann["where"])
        if annotation_id < 0:
            raise Problem("bad record", f"{ann['where']}: field 'id' is negative; number the annotations from 0")
        marks = draw_marks(target, np.random.default_rng([self._seed, annotation_id]))
        kind = self._kinds[int(rng.integers(len(self._kinds)))]
        return Region.from_mask(marks[kind], kind, self._radii.get(kind, 0))
