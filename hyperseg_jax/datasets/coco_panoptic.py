"""COCO panoptic: {images, annotations: [{image_id, file_name, segments_info}], categories: [{id, name, isthing}]}.

A pixel of the png belongs to the segment R + 256 G + 65536 B; 0 is void.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.class_prompts import CategoryReader, ClassLists
from hyperseg_jax.datasets.id_index import IdIndex, index_categories
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget


class CocoPanoptic(CategoryReader):
    """Random access to the images of one json file, in its order, each with class-list prompts."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        png_root: str | os.PathLike,
        *,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
    ):
        """max_classes, prompts_per_example, seed: see class_prompts.ClassLists."""
        self._file = files.Json(json_path, dict)
        self._images = files.existing_folder(image_root)
        self._pngs = files.existing_folder(png_root)
        path, content = str(self._file.path), self._file.content
        rows = files.list_field(content, "categories", path)
        self._class_index = index_categories(rows, f"{path} categories")
        names = tuple(files.text_field(row, "name", f"{path} categories") for row in rows)
        things = tuple(files.flag(row, "isthing", f"{path} categories") for row in rows)
        self._class_lists = ClassLists(names, things, max_classes, prompts_per_example, seed)
        self._image_of = IdIndex(files.list_field(content, "images", path), "id", f"{path} images")
        notes = files.list_field(content, "annotations", path)
        self._length, self._notes = len(notes), IdIndex(notes, "image_id", f"{path} annotations", strict=False)

    def __len__(self) -> int:
        return self._length

    @guard_record
    def __getitem__(self, index: int) -> Example:
        where = f"{self._file.path} annotations#{index}"
        note = self._file.content["annotations"][index]
        number = files.record_id(note, "image_id", where)
        if number not in self._image_of:
            raise UserError(f"{where}: image_id {number} is not among the images of the file; correct or remove it")
        self._notes[number]
        image = self._file.content["images"][self._image_of[number]]
        size = files.image_size(image, where)
        pixels = files.read_image(files.inside(self._images, files.field(image, "file_name", where), where), size)
        masks, labels, ignore, crowds = self._segments(note, size, where)
        prompts = self._class_lists.prompts(index, masks, labels, ignore, key=str(number), crowds=list(crowds.items()))
        return Example(f"{self._file.path.name}#{index}", pixels[None], prompts)

    def _segments(
        self, note: dict, size: tuple[int, int], where: str
    ) -> tuple[np.ndarray, list[int], np.ndarray, dict[int, np.ndarray]]:
        """Masks [N, H, W], the class of each, the pixels of crowds and of no segment, and the crowd of each class."""
        png = files.inside(self._pngs, pathlib.PurePosixPath(files.text_field(note, "file_name", where)).name, where)
        coded = files.read_segment_ids(png, size)
        if coded is None:
            return np.zeros((0, *size), bool), [], np.ones(size, bool), {}
        owner = coded.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        ignore = owner == 0
        segments, labels, crowds = [], [], {}
        infos = files.list_field(note, "segments_info", where)
        IdIndex(infos, "id", f"{where} segments_info").check()
        for info in infos:
            budget.charge(1, size, where)
            mask = owner == files.integer(info, "id", f"{where} segments_info")
            category = files.integer(info, "category_id", f"{where} segments_info")
            if category not in self._class_index:
                report_problem(
                    "bad record", f"{where}: category_id {category} is not among the categories of the file; correct it"
                )
            elif not mask.any():
                report_problem(
                    "bad mask", f"{png}: has no pixel of segment {info['id']} that {where} lists; write the pair again"
                )
            elif files.flag(info, "iscrowd", f"{where} segments_info", False):
                ignore |= mask
                crowds[self._class_index[category]] = mask  # the last of a class counts, as in COCO's tool
            else:
                segments.append(mask)
                labels.append(self._class_index[category])
        return np.array(segments, bool).reshape(-1, *size), labels, ignore, crowds
