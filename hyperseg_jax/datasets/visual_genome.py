"""Visual Genome regions for region captioning: region_descriptions.json [{id, regions: [{region_id, phrase, x, y, width,
height}]}], image_data.json [{image_id, width, height}], densecap_splits.json {split: [ids]}, VG_100K and
VG_100K_2/{id}.jpg."""

from __future__ import annotations

import bisect
import itertools
import os
import pathlib
from collections.abc import Container, Iterator
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem, note_problem
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.region_captions import DescribedRegion, RegionCaptions
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped, escaped_value

FOLDERS = ("VG_100K", "VG_100K_2")
REGIONS, IMAGES, SPLITS = "region_descriptions.json", "image_data.json", "densecap_splits.json"
SOURCES = {
    REGIONS: "Visual Genome 1.2, homes.cs.washington.edu/~ranjay/visualgenome (region descriptions)",
    IMAGES: "Visual Genome 1.2, homes.cs.washington.edu/~ranjay/visualgenome (image meta data)",
    SPLITS: "the code of DenseCap, github.com/jcjohnson/densecap (info/densecap_splits.json)",
}
"""Where each file comes from."""


class VisualGenome(RegionCaptions):
    """Random access to the images of a split that have regions, in the order of the regions file. Phrases are used as they
    are, with one phrase for each region."""

    def __init__(self, folder: str | os.PathLike, split: str, *, mark: str = "box", seed: int = 0):
        """folder: contains the three json files and the two image folders. split: "train", "val" or "test" (DenseCap). mark,
        seed: see region_captions; the dataset has no masks."""
        self._root = files.existing_folder(folder)
        self._file = self._open_json(REGIONS, list)
        splits = self._open_json(SPLITS, dict)
        if split not in splits.content:
            available = escaped(", ".join(splits.content) or "none")
            raise UserError(f"{splits.path}: no split {split!r}; available splits: {available}")
        image_ids = set(fields.id_list_field(splits.content, split, str(splits.path)))
        data = self._open_json(IMAGES, list)
        self._data, self._size_index = data, IdIndex(data.content, "image_id", str(data.path), strict=False)
        self.name = f"visual_genome:{split}"
        self._items, counts, errors = list[int](), list[int](), dict[int, UserError]()
        for k, record in enumerate(self._file.content):
            count = 0
            try:
                count = self._count_regions(record, image_ids, f"{self._file.path}#{k}")
            except UserError as error:
                errors[len(self._items)] = error.with_traceback(None)
            if count or len(self._items) in errors:
                self._items.append(k)
                counts.append(count)
        self._ends = list(itertools.accumulate(counts))
        self._image_index = IdIndex(self._file.content, "id", str(self._file.path), strict=False)
        if missing := [number for number in image_ids if number not in self._image_index]:
            first = escaped_value(min(missing, key=str))
            why = f"{len(missing)} images of {split} are not in {self._file.path}, such as {first}"
            note_problem("bad record", f"{splits.path}: {why}; use both files from the same release")
        self._image_index.duplicates_only()
        regions = [self._file.content[k]["regions"] for n, k in enumerate(self._items) if n not in errors]
        every = list(itertools.chain.from_iterable(regions))
        self._region_ids = IdIndex(every, "region_id", self._location, strict=False).duplicates_only()
        self._set_images(len(self._items), mark, seed, errors)

    def _count_regions(self, record: Any, image_ids: Container[int | str], where: str) -> int:
        """Returns the number of regions of an image that belongs to the split. An image without an id may be of any split."""
        image_id = fields.id_field(record, "id", where)
        if image_id not in image_ids:
            return 0
        if image_id not in self._size_index:
            why = f"image {image_id} is not in {self._data.path}"
            raise Problem("bad record", f"{where}: {why}; use both files from the same release")
        return len(fields.list_field(record, "regions", where))

    def _open_json(self, name: str, kind: type) -> files.Json:
        path = files.join_inside(self._root, name, str(self._root))
        if not path.is_file():
            raise Problem("missing file", f"{path}: no such file; it comes from {SOURCES[name]}")
        return files.Json(path, kind)

    def _location(self, number: int) -> str:
        """Returns the location of a region. number: its number among all regions of the split."""
        n = bisect.bisect_right(self._ends, number)
        return self._where(n, number - (self._ends[n - 1] if n else 0))

    def _where(self, n: int, k: int) -> str:
        return f"{self._file.path}#{self._items[n]} regions#{k}"

    def _record(self, n: int) -> tuple[dict[str, Any], str]:
        return self._file.content[self._items[n]], f"{self._file.path}#{self._items[n]}"

    def _image_key(self, n: int) -> str:
        record, where = self._record(n)
        return str(fields.id_field(record, "id", where))

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        record, where = self._record(n)
        image_id = fields.id_field(record, "id", where)
        paths = [files.join_inside(self._root, f"{folder}/{image_id}.jpg", where) for folder in FOLDERS]
        self._image_index.check(record, where)
        k = self._size_index[image_id]
        size = fields.declared_image_size(self._data.content[k], f"{self._data.path}#{k}")
        return next((path for path in paths if path.exists()), paths[0]), size

    def _regions(self, n: int, size: tuple[int, int]) -> Iterator[DescribedRegion]:
        for k, region in enumerate(self._record(n)[0]["regions"]):
            where = self._where(n, k)
            self._region_ids.check(region, where)
            box = [fields.field(region, name, where) for name in ("x", "y", "width", "height")]
            yield DescribedRegion(box, (fields.text_field(region, "phrase", where),), where)
