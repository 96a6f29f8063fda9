"""Referring expressions in the original files: RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO beside a COCO instances.json.

refs(unc).p, refs(umd).p, refs(google).p are pickles of a list of {ref_id, ann_id, image_id, split, sentences: [{sent, raw,
tokens}]}; grefs(unc).json is the same in json with a list of ann_id, [-1] where nothing fits. The pickle is read, never run.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.refcoco import SENTENCES
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile, map_file
from hyperseg_jax.untrusted.old_pickles import OLD_TABLE
from hyperseg_jax.untrusted.pickle_machine import PickleMachine
from hyperseg_jax.untrusted.printing import shown

OPERATIONS = 50_000_000  # RefCOCOg has some 5 000 000
NOTHING = -1
SENTENCE, NUMBER = 8, 2
"""Bytes that each takes in any file, at least."""


class RefCocoRefs(PerImage):
    """Random access to the expressions of one split of one refs file, in its order."""

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

        sentences: "each": a prompt each, as the benchmark scores; "joined": those of one ref are one prompt (HyperSeg).
        prompts_per_example: of one image. polygons: see masks.decode; the REFER tools fill them as pycocotools does.
        """
        for name, value, known in (("sentences", sentences, SENTENCES), ("polygons", polygons, masks.POLYGON_RULES)):
            if value not in known:
                raise UserError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
        self._path = pathlib.Path(refs_path)
        self.name = f"{self._path.name}:{split}"
        self._polygons = polygons
        self._images = files.existing_folder(image_root)
        self._records = CocoRecords(instances_path)
        notes = self._records.file.content["annotations"]
        self._annotation_of = IdIndex(notes, "id", f"{self._records.path} annotations")
        self._refs = self._of_split(_read(self._path), split)
        spoken = [range(len(ref["sentences"])) if sentences == "each" else (-1,) for ref in self._refs]
        self._items = [(n, sentence) for n, which in enumerate(spoken) for sentence in which]
        self._group_prompts(len(self._items), lambda n: self._refs[self._items[n][0]]["image_id"], prompts_per_example)

    def _of_split(self, refs: list, split: str) -> list[dict[str, Any]]:
        """The refs of a split that name an image of the instances file, with what is needed of them."""
        kept, there, most, listed = [], set(), self._path.stat().st_size, 0
        for k, ref in enumerate(refs):
            where = f"{self._path}#{k}"
            there.add(files.text_field(ref, "split", where))
            if ref["split"] != split:
                continue
            number = files.record_id(ref, "image_id", where)
            if not self._records.has_image(number):
                report_problem(
                    "bad record", f"{where}: image_id {number} is not in {self._records.path}; take both files from one release"
                )
                continue
            named = files.field(ref, "ann_id", where)
            named = named if isinstance(named, list) else [named]
            limits.check("masks", len(named), where, "masks")
            listed += SENTENCE * len(files.list_field(ref, "sentences", where)) + NUMBER * len(named)
            if listed > most:  # a pickle can give one list to many refs
                why = f"its lists and those before it would take {listed} bytes, and the file has {most}"
                raise UserError(f"{where}: {why}; download it again")
            named = files.record_ids({"ann_id": named}, "ann_id", where)
            sentences = [files.field(row, "sent", f"{where} sentences") for row in ref["sentences"]]
            if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
                report_problem("bad record", f"{where}: field 'sentences' has none or an empty one; remove the record")
                continue
            kept.append(
                {
                    "where": where,
                    "image_id": number,
                    "sentences": [text.strip() for text in sentences],
                    "ann_ids": named,
                    "key": str(files.record_id(ref, "ref_id", where) if "ref_id" in ref else k),
                }
            )
        if split not in there:
            raise UserError(f"{self._path}: no split {split!r}; it has {shown(', '.join(sorted(map(str, there))) or 'none')}")
        return kept

    def _image(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        image = self._records.image(self._refs[self._items[n][0]]["image_id"])
        where = f"{self._records.path} image {image['id']}"
        return files.inside(self._images, files.field(image, "file_name", where), where), files.image_size(image, where)

    def _prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        number, sentence = self._items[n]
        ref = self._refs[number]
        spoken = ref["sentences"] if sentence < 0 else [ref["sentences"][sentence]]
        named = [annotation for annotation in ref["ann_ids"] if annotation != NOTHING]
        target = np.zeros(size, bool)
        for annotation in named:
            if annotation not in self._annotation_of:
                report_problem(
                    "bad record",
                    f"{ref['where']}: ann_id {annotation} is not in {self._records.path}; take both files from one release",
                )
                continue
            k = self._annotation_of[annotation]
            segmentation = files.field(self._records.annotation(k), "segmentation", self._records.where(k))
            target |= masks.decode(segmentation, *size, f"{self._records.where(k)} segmentation", polygons=self._polygons)
        return Prompt(
            task="referring",
            text=join_sentences(spoken),
            masks=target[None, None] if named else np.zeros((0, 1, *size), bool),
            group="none" if not named else "one" if len(named) == 1 else "many",
            key=f"{ref['key']}.{max(sentence, 0)}",
        )


def _read(path: pathlib.Path) -> list:
    """The refs of a pickle or json."""
    if path.suffix == ".json":
        return files.Json(path, list).content
    try:
        machine = PickleMachine(map_file(path), {}, what="annotations", limit=OPERATIONS, table=OLD_TABLE)
        refs = machine.run()
        if not isinstance(refs, list):
            raise BadFile(f"holds a {type(refs).__name__} where a list of refs belongs")
    except BadFile as error:
        advice = "do not open it with other tools; download it again from the authors of the benchmark"
        raise UserError(f"{path}: {error.why}; {advice}") from error
    return refs
