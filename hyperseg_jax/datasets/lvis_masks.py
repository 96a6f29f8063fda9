"""LVIS masks in place of COCO's: finer outlines of the same objects, about the same images (SEEM, Zou et al. 2023)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget

OVERLAP = 0.7
"""Boxes of the same object overlap by more than this (intersection over union)."""


class LvisMasks:
    """The objects of LVIS json files by the id of their COCO image: {annotations: [{image_id, segmentation}]}."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        """Raises UserError if a file is missing. Annotations without an image_id are problems."""
        self._files = [self._open(path) for path in paths]
        self._of_image: dict[int | str, list[tuple[int, int]]] = {}
        for number, file in enumerate(self._files):
            for k, annotation in enumerate(fields.list_field(file.content, "annotations", str(file.path))):
                image_id = fields.id_field(annotation, "image_id", f"{file.path} annotations#{k}")
                self._of_image.setdefault(image_id, []).append((number, k))

    @staticmethod
    def _open(path: str | os.PathLike) -> files.Json:
        try:
            return files.Json(path, dict)
        except UserError as error:
            source = "download lvis_v1_train.json and lvis_v1_val.json from lvisdataset.org, or give no lvis_paths"
            raise Problem("missing file", f"{os.fspath(path)}: no such file; {source}") from error

    def replace(self, image_id: int | str, coco: Bool[np.ndarray, "N H W"]) -> Bool[np.ndarray, "N H W"]:
        """Returns the masks of an image, each replaced by that of the first LVIS object whose box overlaps by more than
        OVERLAP. Replaced masks may overlap."""
        found = self._of_image.get(image_id, ())
        if not found or not len(coco):
            return coco
        size = coco.shape[1], coco.shape[2]
        objects = [(fields.field(annotation, "segmentation", where), where) for annotation, where in map(self._read, found)]
        boxes = np.zeros((len(objects), 4))
        for box, (segmentation, where) in zip(boxes, objects, strict=True):
            budget.charge_masks(1, (1, 1), where)  # its pixels are not filled here
            box[:] = masks.segmentation_box(segmentation, *size, f"{where} segmentation")
        result = coco.copy()
        for n, mask in enumerate(coco):
            same = np.flatnonzero(box_overlaps(np.array(masks.mask_box(mask)), boxes) > OVERLAP)
            if len(same):
                segmentation, where = objects[int(same[0])]
                result[n] = masks.decode_segmentation(segmentation, *size, f"{where} segmentation", polygons="coco")
        return result

    def _read(self, place: tuple[int, int]) -> tuple[dict, str]:
        """Returns an annotation and its location, for messages."""
        file, k = self._files[place[0]], place[1]
        return file.content["annotations"][k], f"{file.path} annotations#{k}"


def box_overlaps(one: Float[np.ndarray, " 4"], others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, " M"]:
    """Returns the intersection over union of a box (left, top, right, bottom) and others; 0 for empty boxes."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(-1)
    area = lambda boxes: (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = area(one) + area(others) - common
    return np.where(common > 0, common / np.maximum(union, 1e-9), 0.0)
