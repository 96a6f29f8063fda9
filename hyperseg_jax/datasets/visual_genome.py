"""Visual Genome regions, for captions of regions: region_descriptions.json [{id, regions: [{region_id, phrase, x, y, width,
height}]}], image_data.json [{image_id, width, height}], densecap_splits.json {split: [ids]}, VG_100K and
VG_100K_2/{id}.jpg."""

from __future__ import annotations

import os
import pathlib

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.visual_prompts import box_regions
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted.printing import shown

FOLDERS = ("VG_100K", "VG_100K_2")


class VisualGenome(PerImage):
    """Random access to the regions of a split, images in the order of the regions' file."""

    def __init__(self, folder: str | os.PathLike, split: str, *, prompts_per_example: int = 1):
        """folder: with the three json files and the two folders of images. split: "train", "val" or "test" (DenseCap)."""
        self._root = files.existing_folder(folder)
        self._file = self._open("region_descriptions.json", list)
        splits = self._open("densecap_splits.json", dict).content
        if split not in splits:
            raise UserError(
                f"{self._root / 'densecap_splits.json'}: no split {split!r}; it has {shown(', '.join(splits) or 'none')}"
            )
        chosen, data = (
            set(files.record_ids(splits, split, str(self._root / "densecap_splits.json"))),
            self._open("image_data.json", list),
        )
        self._sizes = {}
        for k, row in enumerate(data.content):
            if files.record_id(row, "image_id", f"{data.path}#{k}") in chosen:
                self._sizes[row["image_id"]] = files.image_size(row, f"{data.path}#{k}")
        self.name = f"visual_genome:{split}"
        self._items = []
        for k, record in enumerate(self._file.content):
            number = files.record_id(record, "id", f"{self._file.path}#{k}")
            if number not in chosen:
                continue
            if number not in self._sizes:
                report_problem(
                    "bad record",
                    f"{self._file.path}#{k}: image {number} is not in {data.path}; take both files from one release",
                )
                continue
            self._items += [(k, r) for r in range(len(files.list_field(record, "regions", f"{self._file.path}#{k}")))]
        self._group_prompts(len(self._items), lambda n: self._items[n][0], prompts_per_example)

    def _open(self, name: str, kind: type) -> files.Json:
        return files.Json(files.inside(self._root, name, str(self._root)), kind)

    def _image(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        where = f"{self._file.path}#{self._items[n][0]}"
        number = files.record_id(self._file.content[self._items[n][0]], "id", where)
        paths = [files.inside(self._root, f"{folder}/{number}.jpg", where) for folder in FOLDERS]
        return next((path for path in paths if path.exists()), paths[0]), self._sizes[number]

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        record, place = self._items[n]
        region, where = self._file.content[record]["regions"][place], f"{self._file.path}#{record} regions#{place}"
        box = [files.field(region, name, where) for name in ("x", "y", "width", "height")]
        return Prompt(
            task="caption",
            answer=files.text_field(region, "phrase", where).strip(),
            regions=box_regions(box, size, where),
            key=str(files.record_id(region, "region_id", where)),
        )
