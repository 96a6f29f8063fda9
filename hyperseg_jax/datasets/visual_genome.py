"""Visual Genome regions for region captioning: region_descriptions.json [{id, regions: [{region_id, phrase, x, y, width,
height}]}], image_data.json [{image_id, width, height}], densecap_splits.json {split: [ids]}, VG_100K and
VG_100K_2/{id}.jpg."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Container
from typing import Any

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.visual_prompts import box_regions
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted.printing import escaped

FOLDERS = ("VG_100K", "VG_100K_2")


class VisualGenome(PerImage):
    """Random access to the regions of a split, in the order of the regions file."""

    def __init__(self, folder: str | os.PathLike, split: str, *, prompts_per_example: int = 1):
        """folder: contains the three json files and the two image folders. split: "train", "val" or "test" (DenseCap)."""
        self._root = files.existing_folder(folder)
        self._file = self._open_json("region_descriptions.json", list)
        splits = self._open_json("densecap_splits.json", dict).content
        if split not in splits:
            available = escaped(", ".join(splits) or "none")
            raise UserError(f"{self._root / 'densecap_splits.json'}: no split {split!r}; available splits: {available}")
        image_ids = set(files.id_list_field(splits, split, str(self._root / "densecap_splits.json")))
        data = self._open_json("image_data.json", list)
        self._data, self._size_index = data, IdIndex(data.content, "image_id", str(data.path), strict=False)
        self.name = f"visual_genome:{split}"
        self._items, errors = list[tuple[int, int]](), dict[int, UserError]()
        for k, record in enumerate(self._file.content):
            try:
                count = self._count_regions(record, image_ids, f"{self._file.path}#{k}")
            except UserError as error:
                errors[len(self._items)] = error.with_traceback(None)
                count = 1
            self._items += [(k, r) for r in range(count)]
        self._image_index = IdIndex(self._file.content, "id", str(self._file.path), strict=False).duplicates_only()
        regions = [None if n in errors else self._file.content[k]["regions"][r] for n, (k, r) in enumerate(self._items)]
        self._region_ids = IdIndex(regions, "region_id", self._location, strict=False).duplicates_only()
        self._group_prompts(len(self._items), lambda n: self._items[n][0], prompts_per_example, errors)

    def _count_regions(self, record: Any, image_ids: Container[int | str], where: str) -> int:
        """Returns the number of regions of an image that belong to the split. An image without an id may be of any split."""
        image_id = files.id_field(record, "id", where)
        if image_id not in image_ids:
            return 0
        if image_id not in self._size_index:
            why = f"image {image_id} is not in {self._data.path}"
            raise Problem("bad record", f"{where}: {why}; use both files from the same release")
        return len(files.list_field(record, "regions", where))

    def _open_json(self, name: str, kind: type) -> files.Json:
        return files.Json(files.join_inside(self._root, name, str(self._root)), kind)

    def _location(self, n: int) -> str:
        record, k = self._items[n]
        return f"{self._file.path}#{record} regions#{k}"

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        where = f"{self._file.path}#{self._items[n][0]}"
        image_id = files.id_field(self._file.content[self._items[n][0]], "id", where)
        paths = [files.join_inside(self._root, f"{folder}/{image_id}.jpg", where) for folder in FOLDERS]
        self._image_index.check(self._file.content[self._items[n][0]], where)
        k = self._size_index[image_id]
        size = files.declared_image_size(self._data.content[k], f"{self._data.path}#{k}")
        return next((path for path in paths if path.exists()), paths[0]), size

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        record, k = self._items[n]
        region, where = self._file.content[record]["regions"][k], self._location(n)
        self._region_ids.check(region, where)
        box = [files.field(region, name, where) for name in ("x", "y", "width", "height")]
        return Prompt(
            task="caption",
            answer=files.text_field(region, "phrase", where).strip(),
            regions=box_regions(box, size, where),
            key=str(files.id_field(region, "region_id", where)),
        )
