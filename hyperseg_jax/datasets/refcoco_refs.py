"""Referring expressions in the original files of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, with a COCO instances.json.

refs(unc).p, refs(umd).p, refs(google).p are pickles of a list of {ref_id, ann_id, image_id, split, sentences: [{sent, raw,
tokens}]}; grefs(unc).json is the same in json with a list of ann_id, [-1] without a target. Pickles are parsed without
executing them.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile, map_file
from hyperseg_jax.untrusted.old_pickles import OLD_TABLE
from hyperseg_jax.untrusted.pickle_machine import PickleMachine
from hyperseg_jax.untrusted.printing import escaped

SENTENCES = ("joined", "each")
OPERATIONS = 50_000_000  # limit of pickle operations; RefCOCOg has about 5 000 000
NOTHING = -1
SENTENCE, NUMBER = 8, 2
"""Minimum size of a sentence and of a number in any file, in bytes."""


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
        self._path = files.as_path(refs_path)
        self.name = f"{self._path.name}:{split}"
        self._polygons = polygons
        self._images = files.existing_folder(image_root)
        self._records = CocoRecords(instances_path)
        annotations = self._records.file.content["annotations"]
        self._annotation_index = IdIndex(annotations, "id", f"{self._records.path} annotations", strict=False)
        self._refs = self._select_refs_of_split(_read_refs(self._path), split)
        self._ref_ids = IdIndex(self._refs, "ref_id", self._ref_location, strict=False).duplicates_only()
        selected = [range(len(ref["sentences"])) if sentences == "each" else (-1,) for ref in self._refs]
        self._items = [(n, sentence) for n, indices in enumerate(selected) for sentence in indices]
        errors = {k: self._refs[n]["error"] for k, (n, _) in enumerate(self._items) if "error" in self._refs[n]}
        image_of = lambda n: self._refs[self._items[n][0]]["image_id"]
        self._group_prompts(len(self._items), image_of, prompts_per_example, errors)

    def _select_refs_of_split(self, refs: list, split: str) -> list[dict[str, Any]]:
        """Returns the needed fields of the refs of a split. A damaged ref has the field "error" and an empty sentence; without
        the name of its split, it may be of any one."""
        result, splits, file_size, list_bytes = [], set(), self._path.stat().st_size, 0
        for k, ref in enumerate(refs):
            where = f"{self._path}#{k}"
            try:
                splits.add(files.text_field(ref, "split", where))
                if ref["split"] != split:
                    continue
                ann_ids = files.field(ref, "ann_id", where)
                ann_ids = ann_ids if isinstance(ann_ids, list) else [ann_ids]
                limits.check_limit("masks", len(ann_ids), where, "masks")
                list_bytes += SENTENCE * len(files.list_field(ref, "sentences", where)) + NUMBER * len(ann_ids)
                fields = self._parse_ref(ref, ann_ids, where) if list_bytes <= file_size else {}
            except UserError as error:
                fields = {"sentences": [""], "error": error.with_traceback(None)}
            if list_bytes > file_size:  # refs of a pickle can share one list
                why = f"its lists and those before it need at least {list_bytes} bytes, but the file has {file_size}"
                raise UserError(f"{where}: {why}; download it again")
            result.append({**fields, "where": where, "number": k})
        if result and not splits:
            raise result[0]["error"]
        if split not in splits:
            available = escaped(", ".join(sorted(map(str, splits))) or "none")
            raise UserError(f"{self._path}: no split {split!r}; available splits: {available}")
        return result

    def _parse_ref(self, ref: dict[str, Any], ann_ids: list[Any], where: str) -> dict[str, Any]:
        """Returns the needed fields of a ref. Raises UserError if it is damaged, or its image is not in the instances file."""
        image_id = files.id_field(ref, "image_id", where)
        if not self._records.has_image(image_id):
            why = f"image_id {image_id} is not in {self._records.path}"
            raise Problem("bad record", f"{where}: {why}; use both files from the same release")
        sentences = [files.field(row, "sent", f"{where} sentences") for row in ref["sentences"]]
        if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
            raise Problem("bad record", f"{where}: field 'sentences' is empty or has an empty sentence; remove the record")
        return {
            "image_id": image_id,
            "sentences": [text.strip() for text in sentences],
            "ann_ids": files.id_list_field({"ann_id": ann_ids}, "ann_id", where),
            **({"ref_id": files.id_field(ref, "ref_id", where)} if "ref_id" in ref else {}),
        }

    def _ref_location(self, number: int) -> str:
        return self._refs[number]["where"]

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, tuple[int, int]]:
        image = self._records.image(self._refs[self._items[n][0]]["image_id"])
        where = f"{self._records.path} image {image['id']}"
        return files.join_inside(self._images, files.field(image, "file_name", where), where), files.declared_image_size(
            image, where
        )

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        number, sentence = self._items[n]
        ref = self._refs[number]
        self._ref_ids.check(ref, ref["where"])
        sentences = ref["sentences"] if sentence < 0 else [ref["sentences"][sentence]]
        ann_ids = [ann_id for ann_id in ref["ann_ids"] if ann_id != NOTHING]
        target = np.zeros(size, bool)
        for ann_id in ann_ids:
            if ann_id not in self._annotation_index:
                report_problem(
                    "bad record",
                    f"{ref['where']}: ann_id {ann_id} is not in {self._records.path}; use both files from the same release",
                )
                continue
            k = self._annotation_index[ann_id]
            segmentation = files.field(self._records.annotation(k), "segmentation", self._records.where(k))
            target |= masks.decode_segmentation(
                segmentation, *size, f"{self._records.where(k)} segmentation", polygons=self._polygons
            )
        return Prompt(
            task="referring",
            text=join_sentences(sentences),
            masks=target[None, None] if ann_ids else np.zeros((0, 1, *size), bool),
            group="none" if not ann_ids else "one" if len(ann_ids) == 1 else "many",
            key=f"{ref.get('ref_id', ref['number'])}.{max(sentence, 0)}",
        )


def _read_refs(path: pathlib.Path) -> list:
    """Reads the refs of a pickle or json file."""
    if path.suffix == ".json":
        return files.Json(path, list).content
    try:
        machine = PickleMachine(map_file(path), {}, what="annotations", limit=OPERATIONS, table=OLD_TABLE)
        refs = machine.run()
        if not isinstance(refs, list):
            raise BadFile(f"contains a {type(refs).__name__}, expected a list of refs")
    except BadFile as error:
        advice = "do not open it with other tools; download it again from the authors of the benchmark"
        raise UserError(f"{path}: {error.why}; {advice}") from error
    return refs
