"""Referring expressions in the json format of HyperSeg, InstructSeg and PSALM: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO.

A list of {new_img_id, image_info: {file_name, height, width}, instruction: [{sent, ...}], anns: [{segmentation, ...}]}. Without
a target, `no_target` is true or anns is empty; expressions with several targets have several anns. HyperSeg (commit 5cfcf52)
joins all sentences of a record to one expression.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.expressions import join_sentences

SENTENCES = ("joined", "each")


class RefCoco:
    """Random access to the expressions of one json file, in file order; deterministic."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        sentences: str = "joined",
        polygons: str = "fill_poly",
        group_by_image: bool = False,
        prompts_per_example: int = 4,
    ):
        """image_root: image_info.file_name is relative to this folder.

        sentences: "joined" is one prompt per record, as in the published evaluation; "each" is one prompt per sentence.
        polygons: how polygons are filled, one of masks.POLYGON_RULES: "fill_poly" as in the published evaluation, "coco" as in
        the published training. group_by_image: an example has up to prompts_per_example prompts of one image, in file order.
        """
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        if polygons not in masks.POLYGON_RULES:
            raise UserError(f"polygons={polygons!r} is unknown; choose one of {', '.join(masks.POLYGON_RULES)}")
        self._polygons = polygons
        self._file = files.Json(json_path, list)
        self._images = files.existing_folder(image_root)
        self._sentences = sentences
        self._per_example = prompts_per_example if group_by_image else 1
        self._groups = self._group_sentences(group_by_image)

    def _location(self, record: int) -> str:
        return f"{self._file.path}#{record}"

    def _group_sentences(self, group_by_image: bool) -> list[list[tuple[int, int]]]:
        """Returns (record, sentence) of the prompts of each example; sentence -1 means all sentences joined.

        A damaged record is a separate example."""
        items: list[tuple[int, int]] = []
        by_image: dict[str | int, list[int]] = {}
        for number, record in enumerate(self._file.content):
            name: str | int = number
            count = 0
            with contextlib.suppress(UserError):  # raised again when the record is read
                count = len(files.list_field(record, "instruction", self._location(number)))
                name = files.text_field(record, "image_info.file_name", self._location(number))
            for sentence in range(count) if self._sentences == "each" and count else (-1,):
                by_image.setdefault(name, []).append(len(items))
                items.append((number, sentence))
        if not group_by_image:
            return [[item] for item in items]
        return [
            [items[k] for k in chunk]
            for indices in by_image.values()
            for chunk in files.split_evenly(indices, self._per_example)
        ]

    def __len__(self) -> int:
        return len(self._groups)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        group = self._groups[index]
        where = self._location(group[0][0])
        info = files.field(self._file.content[group[0][0]], "image_info", where)
        size = files.declared_image_size(info, where)
        pixels = files.read_image(files.join_inside(self._images, files.field(info, "file_name", where), where), size)
        prompts = tuple(self._build_prompt(record, sentence, size) for record, sentence in group)
        name = f"{self._file.path.name}#{group[0][0]}" + (f".{group[0][1]}" if group[0][1] >= 0 else "")
        return Example(name, pixels[None], prompts)

    def _build_prompt(self, number: int, sentence: int, size: tuple[int, int]) -> Prompt:
        where = self._location(number)
        record = self._file.content[number]
        entries = files.list_field(record, "instruction", where)
        selected = entries if sentence < 0 else entries[sentence : sentence + 1]
        sentences = [files.text_field(entry, "sent", where) for entry in selected]
        anns = [] if files.flag_field(record, "no_target", where, False) else files.list_field(record, "anns", where)
        target = np.zeros(size, bool)
        for ann in anns:
            segmentation = files.field(ann, "segmentation", where)
            target |= masks.decode_segmentation(segmentation, *size, f"{where} segmentation", polygons=self._polygons)
        return Prompt(
            task="referring",
            text=join_sentences(sentences),
            masks=target[None, None] if anns else np.zeros((0, 1, *size), bool),
            group=files.text_field(record, "group", where, ""),
        )
