"""Referring expressions in the original files of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO (see refer_files)."""

from __future__ import annotations

import itertools
import os
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.refer_files import NOTHING, ReferFiles
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.text.expressions import join_sentences

SENTENCES = ("joined", "each", "raw", "first")


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

        sentences: "each" is one prompt per sentence, as the benchmark evaluates; "joined" is one prompt per ref (HyperSeg);
        "raw" is one prompt per sentence, as it was written but in lower case, without a period of ours, and "first" that of the
        first sentence of each ref (training and evaluation of SEEM). prompts_per_example: maximum number of prompts of one
        image per example. polygons: see masks.decode_segmentation; the REFER tools use pycocotools.
        """
        for name, value, known in (("sentences", sentences, SENTENCES), ("polygons", polygons, masks.POLYGON_RULES)):
            if value not in known:
                raise UserError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
        self._polygons, self._raw = polygons, sentences in ("raw", "first")
        self._images = files.existing_folder(image_root)
        self._files = ReferFiles(refs_path, instances_path, split, text_field="raw" if self._raw else "sent")
        self.name, refs = self._files.name, self._files.refs
        selected = [{"joined": (-1,), "first": (0,)}.get(sentences, range(len(ref["sentences"]))) for ref in refs]
        self._items = [(n, sentence) for n, indices in enumerate(selected) for sentence in indices]
        errors = {k: refs[n]["error"] for k, (n, _) in enumerate(self._items) if "error" in refs[n]}
        self._group_prompts(len(self._items), lambda n: refs[self._items[n][0]]["image_id"], prompts_per_example, errors)
        self._by_image: dict[int | str, list[int]] | None = None

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        return self._files.image_path_and_size(self._items[n][0], self._images)

    @property
    def damaged(self) -> tuple[UserError, ...]:
        """The errors of damaged refs."""
        return tuple(self._errors.values())

    def prompts_about(self, image_id: int | str, size: tuple[int, int]) -> tuple[Prompt, ...]:
        """Returns all prompts about an image, in file order; those of a ref share its mask. size: (height, width)."""
        groups = itertools.groupby(self._items_of_image().get(image_id, ()), key=lambda n: self._items[n][0])
        return tuple(
            self._make_prompt(n, target)
            for number, items in groups
            for target in (self._decode_target(self._files.refs[number], size),)
            for n in items
        )

    def _items_of_image(self) -> dict[int | str, list[int]]:
        """Returns the items about each image, without those of damaged refs."""
        if self._by_image is None:
            self._by_image = {}
            for n, (number, _) in enumerate(self._items):
                if n not in self._errors:
                    self._by_image.setdefault(self._files.refs[number]["image_id"], []).append(n)
        return self._by_image

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        return self._make_prompt(n, self._decode_target(self._files.refs[self._items[n][0]], size))

    def _make_prompt(self, n: int, target: np.ndarray) -> Prompt:
        """Returns prompt n. target: the mask of its ref."""
        number, sentence = self._items[n]
        ref = self._files.ref(number)
        sentences = ref["sentences"] if sentence < 0 else [ref["sentences"][sentence]]
        count = sum(ann_id != NOTHING for ann_id in ref["ann_ids"])
        return Prompt(
            task="referring",
            text=sentences[0].lower() if self._raw else join_sentences(sentences),
            masks=target[None, None][: min(count, 1)],
            group="none" if not count else "one" if count == 1 else "many",
            key=f"{ref.get('ref_id', ref['number'])}.{max(sentence, 0)}",
        )

    def _decode_target(self, ref: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Returns the union of the objects of a ref."""
        target = np.zeros(size, bool)
        for annotation, where in self._files.annotations(ref):
            segmentation = fields.field(annotation, "segmentation", where)
            target |= masks.decode_object(segmentation, *size, f"{where} segmentation", polygons=self._polygons)
        return target
