"""RefCOCO, RefCOCO+ and RefCOCOg for referring-expression generation: the box of each object, with all its sentences."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.category_boxes import decode_mask
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.refer_files import ReferFiles
from hyperseg_jax.datasets.region_captions import DescribedRegion, RegionCaptions


class RefCocoCaptions(RegionCaptions):
    """Random access to the images of one split of one refs file, in the order of their first ref."""

    def __init__(
        self,
        refs_path: str | os.PathLike,
        instances_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        split: str,
        mark: str = "box",
        seed: int = 0,
    ):
        """image_root: COCO's train2014. split: "train", "val", "testA", "testB" or "test". mark, seed: see region_captions."""
        self._images = files.existing_folder(image_root)
        self._files = ReferFiles(refs_path, instances_path, split)
        self.name = self._files.name
        by_image: dict[int | str, list[int]] = {}
        damaged = list[int]()
        for number, ref in enumerate(self._files.refs):
            if "error" in ref:
                damaged.append(number)
            else:
                by_image.setdefault(ref["image_id"], []).append(number)
        self._items = [*by_image.values(), *([number] for number in damaged)]
        errors = {len(by_image) + n: self._files.refs[number]["error"] for n, number in enumerate(damaged)}
        self._set_images(len(self._items), mark, seed, errors)

    def _image_key(self, n: int) -> str:
        return str(self._files.refs[self._items[n][0]]["image_id"])

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        return self._files.image_path_and_size(self._items[n][0], self._images)

    def _regions(self, n: int, size: tuple[int, int]) -> Iterator[DescribedRegion]:
        for number in self._items[n]:
            ref = self._files.ref(number)
            found = self._files.annotations(ref)
            if len(ref["ann_ids"]) != 1:
                why = f"has {len(ref['ann_ids'])} objects, and a caption describes one"
                raise Problem("bad record", f"{ref['where']}: {why}; use the files of RefCOCO, RefCOCO+ or RefCOCOg")
            for annotation, where in found:
                mask = (lambda a=annotation, w=where: decode_mask(a, size, w)) if "segmentation" in annotation else None
                yield DescribedRegion(fields.field(annotation, "bbox", where), tuple(ref["sentences"]), f"{where} bbox", mask)
