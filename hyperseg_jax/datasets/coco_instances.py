"""COCO instances, and any json in this format: {images: [{id, file_name, height, width}], annotations: [{image_id, category_id,
segmentation, iscrowd, area}], categories: [{id, name}]}. Objects may overlap; crowd pixels are ignored by metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.class_names import COCO_PANOPTIC_STUFF
from hyperseg_jax.datasets.class_prompts import CategoryReader, ClassLists
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.excluded_images import leave_out
from hyperseg_jax.datasets.lvis_masks import LvisMasks
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.structs import Example


class CocoInstances(CategoryReader):
    """Random access to the images of one json file in file order, including images without objects."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        stuff: bool = False,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
        chosen: Sequence[str] = (),
        lvis_paths: Sequence[str | os.PathLike] = (),
        excluded_refs: str | os.PathLike | None = None,
        excluded_split: str = "val",
    ):
        """stuff: whether the class list also has the stuff classes of COCO panoptic, as in the evaluation of panoptic models.
        max_classes, prompts_per_example, seed, chosen: see class_prompts.ClassLists. lvis_paths, excluded_refs,
        excluded_split: see CocoPanoptic. Polygons are filled like in pycocotools."""
        self._records = CocoRecords(json_path)
        self._images = files.existing_folder(image_root)
        things = self._records.categories
        categories = things | COCO_PANOPTIC_STUFF | things if stuff else things
        names, is_thing = tuple(categories.values()), tuple(number in things for number in categories)
        self._class_index = {number: k for k, number in enumerate(categories)}
        self._class_lists = ClassLists(names, is_thing, max_classes, prompts_per_example, seed, tuple(chosen))
        self._lvis = LvisMasks(lvis_paths)
        self._image_ids = list(self._records.annotations)
        self._kept, self.notes = leave_out(self._image_ids, excluded_refs, excluded_split)

    def __len__(self) -> int:
        return len(self._kept)

    @guard_record
    def __getitem__(self, record: int) -> Example:
        index = self._kept[record]
        image_id = self._image_ids[index]
        where = f"{self._records.path} images#{index}"
        image = self._records.image(image_id)
        size = fields.declared_image_size(image, where)
        pixels = files.read_image(files.path_field(self._images, image, "file_name", where), size)
        object_masks, labels, areas, ignore, crowds = [], [], [], np.zeros(size, bool), []
        for k in self._records.annotations[image_id]:
            annotation, location = self._records.annotation(k), self._records.where(k)
            category = fields.integer_field(annotation, "category_id", location)
            segmentation = fields.field(annotation, "segmentation", location)
            mask = masks.decode_object(segmentation, *size, f"{location} segmentation", polygons="coco")
            area = _read_area(annotation, mask, location)
            if category not in self._records.categories:
                report_problem(
                    "bad record", f"{location}: category_id {category} is not among the categories of the file; correct it"
                )
            elif self._records.is_crowd(k):
                ignore |= mask
                crowds.append((self._class_index[category], mask))
            else:
                object_masks.append(mask)
                labels.append(self._class_index[category])
                areas.append(area)
        stacked = self._lvis.replace(image_id, np.array(object_masks, bool).reshape(-1, *size))
        prompts = self._class_lists.build_prompts(index, stacked, labels, ignore, key=str(image_id), crowds=crowds, areas=areas)
        return Example(f"{self._records.path.name}#{index}", pixels[None], prompts)


def _read_area(annotation: dict, mask: np.ndarray, where: str) -> float:
    """Returns the area of an object: that of the file or, if it is missing or null, the number of pixels of its mask. Reports a
    problem if it is negative or no number."""
    pixels = float(mask.sum())
    try:
        area = fields.number_field(annotation, "area", where) if fields.is_given(annotation, "area") else pixels
    except Problem as problem:
        report_problem(problem.kind, str(problem))
        return pixels
    if area < 0:
        report_problem("bad record", f"{where}: field 'area' is {area:g}, expected 0 or more; correct it")
    return area
