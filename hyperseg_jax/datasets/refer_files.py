"""The original files of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: refs of a split, with a COCO instances.json.

refs(unc).p, refs(umd).p, refs(google).p are pickles of a list of {ref_id, ann_id, image_id, split, sentences: [{sent, raw,
tokens}]}; grefs(unc).json is the same in json with a list of ann_id, [-1] without a target. Pickles are parsed without
executing them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.coco_records import CocoRecords
from hyperseg_jax.datasets.id_index import IdIndex, check_image
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile, map_file
from hyperseg_jax.untrusted.old_pickles import OLD_TABLE
from hyperseg_jax.untrusted.pickle_machine import PickleMachine
from hyperseg_jax.untrusted.printing import escaped

OPERATIONS = 50_000_000  # limit of pickle operations; RefCOCOg has about 5 000 000
NOTHING = -1
SENTENCE, NUMBER = 8, 2
"""Minimum size of a sentence and of a number in any file, in bytes."""


class ReferFiles:
    """The refs of one split, in file order, and the annotations of their objects.

    refs: {"image_id", "sentences", "ann_ids", "where", "number", "ref_id" if the file has it}; a damaged ref has the field
    "error" and an empty sentence.
    """

    def __init__(
        self, refs_path: str | os.PathLike, instances_path: str | os.PathLike, split: str, *, text_field: str = "sent"
    ) -> None:
        """text_field: the field of a sentence that is read: "sent", or "raw", as it was written."""
        self._text_field = text_field
        self._path = files.as_path(refs_path)
        self.name = f"{self._path.name}:{split}"
        self.records = CocoRecords(instances_path)
        annotations = self.records.file.content["annotations"]
        self._annotation_index = IdIndex(annotations, "id", f"{self.records.path} annotations", strict=False)
        self.refs = self._select_refs_of_split(read_refs(self._path), split)
        self._ref_ids = IdIndex(self.refs, "ref_id", self._ref_location, strict=False).duplicates_only()

    def _select_refs_of_split(self, refs: list, split: str) -> list[dict[str, Any]]:
        """Returns the needed fields of the refs of a split. A damaged ref has the field "error" and an empty sentence; without
        the name of its split, it may be of any one."""
        result, splits, file_size, list_bytes = [], set[str](), self._path.stat().st_size, 0
        for k, ref in enumerate(refs):
            where = f"{self._path}#{k}"
            try:
                splits.add(fields.text_field(ref, "split", where))
                if ref["split"] != split:
                    continue
                ann_ids = fields.field(ref, "ann_id", where)
                ann_ids = ann_ids if isinstance(ann_ids, list) else [ann_ids]
                limits.check_limit("masks", len(ann_ids), where, "masks")
                list_bytes += SENTENCE * len(fields.list_field(ref, "sentences", where)) + NUMBER * len(ann_ids)
                parsed = self._parse_ref(ref, ann_ids, where) if list_bytes <= file_size else {}
            except UserError as error:
                parsed = {"sentences": [""], "error": error.with_traceback(None)}
            if list_bytes > file_size:  # refs of a pickle can share one list
                why = f"its lists and those before it need at least {list_bytes} bytes, but the file has {file_size}"
                raise UserError(f"{where}: {why}; download it again")
            result.append({**parsed, "where": where, "number": k})
        if result and not splits:
            raise result[0]["error"]
        if split not in splits:
            raise UserError(f"{self._path}: no split {split!r}; available splits: {list_splits(splits)}")
        return result

    def _parse_ref(self, ref: dict[str, Any], ann_ids: list[Any], where: str) -> dict[str, Any]:
        """Returns the needed fields of a ref. Raises UserError if it is damaged, or its image is not in the instances file."""
        image_id = fields.id_field(ref, "image_id", where)
        if not self.records.has_image(image_id):
            why = f"image_id {image_id} is not in {self.records.path}"
            raise Problem("bad record", f"{where}: {why}; use both files from the same release")
        rows = enumerate(ref["sentences"])
        sentences = [fields.field(row, self._text_field, f"{where} sentences#{k}") for k, row in rows]
        if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
            raise Problem("bad record", f"{where}: field 'sentences' is empty or has an empty sentence; remove the record")
        return {
            "image_id": image_id,
            "sentences": [text.strip() for text in sentences],
            "ann_ids": fields.id_list_field({"ann_id": ann_ids}, "ann_id", where),
            **({"ref_id": fields.id_field(ref, "ref_id", where)} if "ref_id" in ref else {}),
        }

    def _ref_location(self, number: int) -> str:
        return self.refs[number]["where"]

    def ref(self, number: int) -> dict[str, Any]:
        """Returns a ref. Reports a problem if another ref has its id. Raises UserError for a text that cannot be tokenized."""
        ref = self.refs[number]
        self._ref_ids.check(ref, ref["where"])
        for k, text in enumerate(ref["sentences"]):
            fields.check_text(text, f"{ref['where']} sentences#{k}: field {self._text_field!r}")
        return ref

    def annotations(self, ref: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
        """Returns the annotations of the objects of a ref, with their locations for messages. Reports a problem for a missing
        one, and for one about another image."""
        found = []
        for ann_id in ref["ann_ids"]:
            if ann_id == NOTHING:
                continue
            if ann_id not in self._annotation_index:
                why = f"ann_id {ann_id} is not in {self.records.path}"
                report_problem("bad record", f"{ref['where']}: {why}; use both files from the same release")
                continue
            k = self._annotation_index[ann_id]
            annotation, where = self.records.annotation(k), self.records.where(k)
            check_image(annotation, ref["image_id"], where)
            found.append((annotation, where))
        return found

    def image_path_and_size(self, number: int, root: pathlib.Path) -> tuple[pathlib.Path, tuple[int, int]]:
        """Returns the path of the image of a ref below root, and its declared (height, width)."""
        image_id = self.refs[number]["image_id"]
        image, where = self.records.image(image_id), f"{self.records.path} image {image_id}"
        return files.path_field(root, image, "file_name", where), fields.declared_image_size(image, where)


def read_refs(path: pathlib.Path) -> list:
    """Reads the refs of a pickle or json file, unchecked."""
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


def list_splits(names: Iterable[str]) -> str:
    """Lists the splits of a refs file, for messages."""
    return escaped(", ".join(sorted(names)) or "none")
