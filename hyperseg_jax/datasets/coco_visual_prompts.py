"""COCO-Interactive without its file: points, scribbles, boxes and rough masks drawn for the objects of COCO instances.

The marks of an object follow from the seed and its annotation's number alone, so they are the same in every run and order.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.interactive import CocoInteractive
from hyperseg_jax.datasets.visual_prompts import draw_marks
from hyperseg_jax.structs import Region


class CocoVisualPrompts(CocoInteractive):
    """Random access to the images that have objects (crowds aside), in the order of the file.

    json_path: instances_*.json. The other arguments are those of CocoInteractive; seed also draws the marks.
    """

    def _open(self, json_path: str | os.PathLike) -> int:
        self._records = CocoRecords(json_path)
        self._name = self._records.path.name
        self._items = []
        for number, notes in self._records.annotations.items():
            objects = [k for k in notes if not self._records.is_crowd(k)]
            if objects:
                self._items.append((number, objects))
        return len(self._items)

    def _record(self, index: int) -> tuple[str, dict, list[dict]]:
        number, objects = self._items[index]
        anns = [{"where": self._records.where(k)} | self._records.annotation(k) for k in objects]
        return f"{self._records.path} image {number}", self._records.image(number), anns

    def _target(self, ann: dict, size: tuple[int, int], where: str) -> np.ndarray:
        segmentation = files.field(ann, "segmentation", ann["where"])
        return masks.decode(segmentation, *size, f"{ann['where']} segmentation", polygons="coco")

    def _mark(self, ann: dict, rng: np.random.Generator, size: tuple[int, int], where: str) -> Region | None:
        target = self._target(ann, size, where)
        if not target.any():
            return None
        number = files.number(ann, "id", ann["where"])
        if number < 0:
            raise Problem("bad record", f"{ann['where']}: field 'id' is negative; number the annotations from 0")
        drawn = draw_marks(target, np.random.default_rng([self._seed, number]))
        kind = self._kinds[int(rng.integers(len(self._kinds)))]
        return Region.from_mask(drawn[kind], kind, self._radii.get(kind, 0))
