"""Referring expressions in the json format of HyperSeg, InstructSeg and PSALM: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO.

A list of {new_img_id, image_info: {file_name, height, width}, instruction: [{sent, ...}], anns: [{segmentation, ...}]}. Without
a target, `no_target` is true or anns is empty; expressions with several targets have several anns. HyperSeg (commit 5cfcf52)
joins all sentences of a record to one expression.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.id_index import check_image
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.expressions import join_sentences

SENTENCES = ("joined", "each", "raw")
ALL = -1
"""Number of the sentence of a prompt that has all sentences of a record."""


class _Sentence(NamedTuple):
    """A sentence of a record of a file, or ALL of them joined."""

    file: files.Json
    record: int
    sentence: int

    @property
    def content(self) -> Any:
        """The record."""
        return self.file.content[self.record]

    @property
    def where(self) -> str:
        """The location of the record, for messages."""
        return f"{self.file.path}#{self.record}"


class RefCoco:
    """Random access to the expressions of one or more json files, in file order; deterministic."""

    def __init__(
        self,
        json_path: str | os.PathLike | Sequence[str],
        image_root: str | os.PathLike,
        *,
        sentences: str = "joined",
        polygons: str = "fill_poly",
        group_by_image: bool = False,
        prompts_per_example: int = 4,
    ):
        """json_path: a file, or a list of files that are read one after the other. image_root: image_info.file_name is relative
        to this folder.

        sentences: "joined" is one prompt per record, as in the published evaluation; "each" is one prompt per sentence, which
        ends with a period in both; "raw" is one prompt per sentence, as it was written but in lower case, without a period of
        ours (SEEM; its field is `raw`). polygons: how polygons are filled, one of masks.POLYGON_RULES:
        "fill_poly" as in the published evaluation, "coco" as in the published training. group_by_image: an example has up to
        prompts_per_example prompts of one image, in file order.
        """
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        if polygons not in masks.POLYGON_RULES:
            raise UserError(f"polygons={polygons!r} is unknown; choose one of {', '.join(masks.POLYGON_RULES)}")
        self._polygons = polygons
        paths = [json_path] if isinstance(json_path, str | os.PathLike) else json_path
        if not paths:
            raise UserError("json_path is an empty list; give at least one file")
        self._files = [files.Json(path, list) for path in paths]
        self._images = files.existing_folder(image_root)
        self._sentences = sentences
        self._per_example = prompts_per_example if group_by_image else 1
        self._groups = self._group_sentences(group_by_image)

    def _group_sentences(self, group_by_image: bool) -> list[list[_Sentence]]:
        """Returns the prompts of each example. A damaged record is a separate example."""
        items: list[_Sentence] = []
        by_image: dict[str | tuple[files.Json, int], list[int]] = {}
        places = [(file, number) for file in self._files for number in range(len(file.content))]
        for file, number in places:
            record = file.content[number]
            name: str | tuple[files.Json, int] = file, number
            count, where = 0, f"{file.path}#{number}"
            with contextlib.suppress(UserError):  # raised again when the record is read
                count = len(fields.list_field(record, "instruction", where))
                name = fields.text_field(record, "image_info.file_name", where)
            chosen = range(0) if self._sentences == "joined" else range(count)
            for sentence in chosen or (ALL,):
                by_image.setdefault(name, []).append(len(items))
                items.append(_Sentence(file, number, sentence))
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
        first, where = group[0], group[0].where
        info = fields.field(first.content, "image_info", where)
        size = fields.declared_image_size(info, where)
        pixels = files.read_image(files.path_field(self._images, info, "file_name", where), size)
        prompts = tuple(self._build_prompt(sentence, size) for sentence in group)
        name = f"{first.file.path.name}#{first.record}" + (f".{first.sentence}" if first.sentence != ALL else "")
        return Example(name, pixels[None], prompts)

    def _build_prompt(self, item: _Sentence, size: tuple[int, int]) -> Prompt:
        record, where = item.content, item.where
        entries = fields.list_field(record, "instruction", where)
        selected = entries if item.sentence == ALL else entries[item.sentence : item.sentence + 1]
        raw = self._sentences == "raw"
        first = max(item.sentence, 0)
        sentences = [
            fields.text_field(entry, "raw" if raw else "sent", f"{where} instruction#{first + k}")
            for k, entry in enumerate(selected)
        ]
        if not "".join(sentences).strip(" ."):
            report_problem(
                "bad record", f"{where}: field 'instruction' has no words; describe the object, or remove the record"
            )
        has_target = not fields.optional_flag_field(record, "no_target", where)
        anns = fields.list_field(record, "anns", where) if has_target else []
        target, info = np.zeros(size, bool), fields.dict_field(record, "image_info", where)
        for k, ann in enumerate(anns):
            place = f"{where} anns#{k}"
            if "id" in info:
                check_image(ann, fields.id_field(info, "id", f"{where} image_info"), place)
            segmentation = fields.field(ann, "segmentation", place)
            target |= masks.decode_object(segmentation, *size, f"{place} segmentation", polygons=self._polygons)
        return Prompt(
            task="referring",
            text="".join(sentences).strip().lower() if raw else join_sentences(sentences),
            masks=target[None, None] if anns else np.zeros((0, 1, *size), bool),
            group=fields.optional_name_field(record, "group", where),
        )
