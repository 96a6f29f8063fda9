"""COCO panoptic: {images, annotations: [{image_id, file_name, segments_info}], categories: [{id, name, isthing}]}.

The segment id of a png pixel is R + 256 G + 65536 B; 0 is void. Every other id must be listed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.class_prompts import CategoryReader, ClassLists
from hyperseg_jax.datasets.excluded_images import leave_out
from hyperseg_jax.datasets.id_index import IdIndex, read_categories
from hyperseg_jax.datasets.image_sentences import ImageSentences
from hyperseg_jax.datasets.lvis_masks import LvisMasks
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget


class CocoPanoptic(CategoryReader):
    """Random access to the images of one json file in file order, each with class-list prompts."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        png_root: str | os.PathLike,
        *,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
        chosen: Sequence[str] = (),
        lvis_paths: Sequence[str | os.PathLike] = (),
        refs_paths: Sequence[str | os.PathLike] = (),
        refs_split: str = "train",
        excluded_refs: str | os.PathLike | None = None,
        excluded_split: str = "val",
    ):
        """max_classes, prompts_per_example, seed, chosen: see class_prompts.ClassLists.

        For training (SEEM): lvis_paths: LVIS json files, whose masks replace those of the same objects. refs_paths: refs files
        of RefCOCO, RefCOCO+ or RefCOCOg, each with its instances.json beside it; their sentences of refs_split about an image
        are further prompts of its example. excluded_refs: a refs file; images of its excluded_split are left out.
        """
        self._file = files.Json(json_path, dict)
        self._images = files.existing_folder(image_root)
        self._pngs = files.existing_folder(png_root)
        path, content = str(self._file.path), self._file.content
        categories = read_categories(content, path)
        self._class_index = {number: k for k, number in enumerate(categories)}
        names, rows = tuple(categories.values()), content["categories"]
        things = tuple(fields.flag_field(row, "isthing", f"{path} categories#{k}") for k, row in enumerate(rows))
        self._class_lists = ClassLists(names, things, max_classes, prompts_per_example, seed, tuple(chosen))
        self._image_index = IdIndex(fields.list_field(content, "images", path), "id", f"{path} images")
        annotations = fields.list_field(content, "annotations", path)
        self._annotation_index = IdIndex(annotations, "image_id", f"{path} annotations", strict=False)
        self._lvis = LvisMasks(lvis_paths)
        self._sentences = ImageSentences(refs_paths, self._images, refs_split)
        self._records, left_out = leave_out(list(map(_image_id, annotations)), excluded_refs, excluded_split)
        self.notes = (*left_out, *self._sentences.notes)

    def __len__(self) -> int:
        return len(self._records)

    @guard_record
    def __getitem__(self, record: int) -> Example:
        index = self._records[record]
        where = f"{self._file.path} annotations#{index}"
        annotation = self._file.content["annotations"][index]
        image_id = fields.id_field(annotation, "image_id", where)
        if image_id not in self._image_index:
            raise UserError(f"{where}: image_id {image_id} is not among the images of the file; correct or remove it")
        self._annotation_index[image_id]  # reports duplicates
        number = self._image_index[image_id]
        image, place = self._file.content["images"][number], f"{self._file.path} images#{number}"
        size = fields.declared_image_size(image, place)
        pixels = files.read_image(files.path_field(self._images, image, "file_name", place), size)
        masks, labels, ignore, crowds = self._read_segments(annotation, size, where)
        masks = self._lvis.replace(image_id, masks)
        prompts = self._class_lists.build_prompts(index, masks, labels, ignore, key=str(image_id), crowds=list(crowds.items()))
        sentences = self._sentences.prompts_about(image_id, size)
        return Example(f"{self._file.path.name}#{index}", pixels[None], (*prompts, *sentences))

    def _read_segments(
        self, annotation: dict, size: tuple[int, int], where: str
    ) -> tuple[np.ndarray, list[int], np.ndarray, dict[int, np.ndarray]]:
        """Returns masks [N, H, W], the class of each mask, the ignored pixels (crowds and void), and the crowd mask of each
        class."""
        name = pathlib.PurePosixPath(fields.text_field(annotation, "file_name", where)).name
        png = files.join_inside(self._pngs, name, f"{where} file_name")
        coded = files.read_segment_ids(png, size)
        if coded is None:
            return np.zeros((0, *size), bool), [], np.ones(size, bool), {}
        segment_ids = coded.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        ignore = segment_ids == 0
        listed = ignore.copy()
        segments, labels, crowds = [], [], {}
        infos = fields.list_field(annotation, "segments_info", where)
        IdIndex(infos, "id", f"{where} segments_info").report_duplicates()
        for k, info in enumerate(infos):
            budget.charge_masks(1, size, where)
            place = f"{where} segments_info#{k}"
            number = fields.integer_field(info, "id", place)
            mask = segment_ids == number
            listed |= mask
            category = fields.integer_field(info, "category_id", place)
            if category not in self._class_index:
                report_problem(
                    "bad record", f"{place}: category_id {category} is not among the categories of the file; correct it"
                )
            elif not mask.any():
                report_problem("bad mask", f"{png}: no pixel has segment {number}, which {place} lists; write both files again")
            elif fields.optional_flag_field(info, "iscrowd", place):
                ignore |= mask
                crowds[self._class_index[category]] = mask  # the last crowd of a class counts, as in COCO's panopticapi
            else:
                segments.append(mask)
                labels.append(self._class_index[category])
        if not listed.all():
            other = segment_ids[~listed][0]
            report_problem(
                "bad mask", f"{png}: has pixels of segment {other}, which {where} does not list; write both files again"
            )
        return np.array(segments, bool).reshape(-1, *size), labels, ignore, crowds


def _image_id(annotation: Any) -> int | str | None:
    """Returns the image id of an annotation; None if it has none, which is an error when it is read."""
    with contextlib.suppress(UserError):
        return fields.id_field(annotation, "image_id", "")
    return None
