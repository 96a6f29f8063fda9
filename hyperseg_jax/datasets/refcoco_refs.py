"""Referring expressions in the original files of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO (see refer_files)."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.refcoco import SENTENCES
from hyperseg_jax.datasets.refer_files import NOTHING, ReferFiles
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.text.expressions import join_sentences


class RefCocoRefs(PerImage):
    """Random access to the expressions of one split of one refs file, in file order."""

    def __init__(
        self,
        refs_path: str | os.PathLike,
        instances_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        split: str,
        sentences: str = "each",
        prompts_per_example: int = 1,
        polygons: str = "coco",
    ):
        """image_root: COCO's train2014. split: "train", "val", "testA", "testB" (RefCOCO, RefCOCO+, gRefCOCO), "test".

        sentences: "each" is one prompt per sentence, as the benchmark evaluates; "joined" is one prompt per ref (HyperSeg).
        prompts_per_example: maximum number of prompts of one image per example. polygons: see
        masks.decode_segmentation; the REFER tools use pycocotools.
        """
        for name, value, known in (("sentences", sentences, SENTENCES), ("polygons", polygons, masks.POLYGON_RULES)):
            if value not in known:
                raise UserError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
        self._polygons = polygons
        self._images = files.existing_folder(image_root)
        self._files = ReferFiles(refs_path, instances_path, split)
        self.name, refs = self._files.name, self._files.refs
        selected = [range(len(ref["sentences"])) if sentences == "each" else (-1,) for ref in refs]
        self._items = [(n, sentence) for n, indices in enumerate(selected) for sentence in indices]
        errors = {k: refs[n]["error"] for k, (n, _) in enumerate(self._items) if "error" in refs[n]}
        self._group_prompts(len(self._items), lambda n: refs[self._items[n][0]]["image_id"], prompts_per_example, errors)

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        return self._files.image_path_and_size(self._items[n][0], self._images)

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        number, sentence = self._items[n]
        ref = self._files.ref(number)
        sentences = ref["sentences"] if sentence < 0 else [ref["sentences"][sentence]]
        ann_ids = [ann_id for ann_id in ref["ann_ids"] if ann_id != NOTHING]
        target = np.zeros(size, bool)
        for annotation, where in self._files.annotations(ref):
            segmentation = files.field(annotation, "segmentation", where)
            target |= masks.decode_segmentation(segmentation, *size, f"{where} segmentation", polygons=self._polygons)
        return Prompt(
            task="referring",
            text=join_sentences(sentences),
            masks=target[None, None] if ann_ids else np.zeros((0, 1, *size), bool),
            group="none" if not ann_ids else "one" if len(ann_ids) == 1 else "many",
            key=f"{ref.get('ref_id', ref['number'])}.{max(sentence, 0)}",
        )
