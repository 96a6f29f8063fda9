"""ReasonSeg: a folder of X.jpg beside X.json {text: [...], is_sentence, shapes: [{label, points: [[x, y], ...]}]}.

Polygons are painted from largest to smallest. The label "flag" is skipped. Labels that contain "ignore" mark pixels that
metrics ignore (LISA's rule) or that are background (HyperSeg's code, commit 5cfcf52). An explanation json,
[{image, query, outputs}], provides text answers for the questions of some images.
"""

from __future__ import annotations

import contextlib
import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped_value

IGNORE_RULES = ("official", "released")
SENTENCES = ("first", "each")
ENCODING = "cp1252"
"""Windows-1252, in which some published files of X.json are; the others are UTF-8."""


class ReasonSeg:
    """Random access to the questions of one folder, sorted by file name."""

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        explanations: str | os.PathLike | None = None,
        sentences: str = "first",
        ignore: str = "official",
    ):
        """explanations: a json whose outputs become Prompt.answer. sentences: the "first" of each image, as in published
        evaluations, or "each". ignore: "official" uses Prompt.ignore; "released" treats ignored pixels as background, as
        HyperSeg and InstructSeg do."""
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if ignore not in IGNORE_RULES:
            raise UserError(f"ignore={ignore!r} is unknown; choose one of {', '.join(IGNORE_RULES)}")
        self._folder = files.existing_folder(folder)
        self._ignore = ignore
        self._answers = _read_explanations(files.Json(explanations, list)) if explanations else {}
        paths = files.list_files(self._folder, "*.json")
        if not paths:
            raise UserError(f"{self._folder}: no json files; give the folder of one ReasonSeg split")
        count = {path: 1 for path in paths}
        if sentences == "each":
            count = {path: _count_texts(path) for path in paths}
        self._items = [(path, k) for path in paths for k in range(count[path])]

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        path, sentence = self._items[index]
        record = files.read_json(path, ENCODING)
        texts = fields.text_list_field(record, "text", str(path))
        if not texts:
            raise UserError(f"{path}: field 'text' is empty; add a question or remove the image")
        image_path = files.join_inside(self._folder, path.with_suffix(".jpg").name, str(path))
        pixels = files.read_image(image_path)
        target, ignored, has_target = self._paint_shapes(record, pixels.shape[:2], str(path))
        answer = self._answers.get(image_path.name, "")
        if isinstance(answer, UserError):
            raise answer.with_traceback(None)
        text = texts[sentence].strip()
        if not text:
            report_problem("bad record", f"{path}: field 'text' has an empty sentence; write or remove it")
        prompt = Prompt(
            task="reasoning",
            text=text,
            answer=answer,
            masks=target[None, None][: int(has_target)],
            ignore=ignored[None] if ignored.any() else None,
            group=fields.optional_name_field(record, "group", str(path)),
        )
        return Example(f"{self._folder.name}/{path.name}#{sentence}", pixels[None], (prompt,))

    def _paint_shapes(self, record: dict, size: tuple[int, int], where: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns the target and the ignored pixels of a record, each bool [H, W], and whether it has a target, which is empty
        if its shapes are outside of the image. Where shapes overlap, the smallest one counts."""
        painted = []
        for k, shape in enumerate(fields.list_field(record, "shapes", where)):
            budget.charge_masks(1, size, where)
            place = f"{where} shapes#{k}"
            label = fields.text_field(shape, "label", place).lower()
            if label == "flag":
                continue
            points = masks.parse_points(fields.field(shape, "points", place))
            if points is None:
                report_problem(
                    "bad mask", f"{place}: field 'points' must list at least two [x, y]; correct or remove the shape"
                )
                continue
            mask = masks.fill_polygons([points], *size, place)
            masks.note_empty(mask, place)
            painted.append((mask, "ignore" in label))
        target, ignored = np.zeros(size, bool), np.zeros(size, bool)
        for mask, to_ignore in sorted(painted, key=lambda pair: int(pair[0].sum()))[::-1]:
            target[mask] = not to_ignore
            ignored[mask] = to_ignore and self._ignore == "official"
        is_outside = any(not mask.any() and not to_ignore for mask, to_ignore in painted)
        return target, ignored, bool(target.any()) or is_outside


def _count_texts(path: pathlib.Path) -> int:
    """Returns the number of questions of a file; 1 if it has none or is damaged, which is reported when it is read."""
    with contextlib.suppress(Problem):
        return max(1, len(fields.text_list_field(files.read_json(path, ENCODING), "text", str(path))))
    return 1


def _read_explanations(explanations: files.Json) -> dict[str, str | UserError]:
    """Returns the explanation of each image, or the error of a damaged or second one. All sentences of an image share one
    target, so the explanation applies to each."""
    answers: dict[str, str | UserError] = {}
    for k, record in enumerate(explanations.content):
        where = f"{explanations.path}#{k}"
        image = fields.text_field(record, "image", where)
        try:
            if image in answers:
                why = f"{escaped_value(image)} has two explanations"
                raise Problem("bad record", f"{where}: {why}; remove one of them")
            answers[image] = fields.text_field(record, "outputs", where).strip()
        except UserError as error:
            answers[image] = error.with_traceback(None)
    return answers
