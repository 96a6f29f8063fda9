"""ReasonSeg: a folder of X.jpg beside X.json {text: [...], is_sentence, shapes: [{label, points: [[x, y], ...]}]}.

Polygons are painted from the largest to the smallest; the label "flag" is skipped, and one with "ignore" in it marks pixels
that no score counts (LISA's rule) or that are background (what HyperSeg's code does, commit 5cfcf52). An explanatory json,
[{image, query, outputs}], gives the questions of some images an answer in words.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import files, masks
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget

IGNORE_RULES = ("official", "released")
SENTENCES = ("first", "each")


class ReasonSeg:
    """Random access to the questions of one folder, in order of the file names."""

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        explanations: str | os.PathLike | None = None,
        sentences: str = "first",
        ignore: str = "official",
    ):
        """explanations: an explanatory json whose outputs become Prompt.answer. sentences: "first" of each image, as the
        published evaluations take, or "each". ignore: "official": Prompt.ignore; "released": background, as
        HyperSeg and InstructSeg score it."""
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if ignore not in IGNORE_RULES:
            raise UserError(f"ignore={ignore!r} is unknown; choose one of {', '.join(IGNORE_RULES)}")
        self._folder = files.existing_folder(folder)
        self._ignore = ignore
        self._answers = _answers(files.Json(explanations, list)) if explanations else {}
        notes = files.list_files(self._folder, "*.json")
        if not notes:
            raise UserError(f"{self._folder}: no json files; give the folder of one ReasonSeg split")
        count = {note: 1 for note in notes}
        if sentences == "each":
            count = {note: len(files.text_list(files.read_json(note), "text", str(note))) for note in notes}
        self._items = [(note, k) for note in notes for k in range(count[note])]

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        path, sentence = self._items[index]
        note = files.read_json(path)
        texts = files.text_list(note, "text", str(path))
        if not texts:
            raise UserError(f"{path}: field 'text' is empty; give the image a question or remove it")
        path_of_image = files.inside(self._folder, path.with_suffix(".jpg").name, str(path))
        pixels = files.read_image(path_of_image)
        target, ignored = self._paint(note, pixels.shape[:2], str(path))
        text = texts[sentence].strip()
        if not text:
            report_problem("bad record", f"{path}: field 'text' has an empty sentence; write it or take it out")
        prompt = Prompt(
            task="reasoning",
            text=text,
            answer=self._answers.get(path_of_image.name, ""),
            masks=target[None, None] if target.any() else np.zeros((0, 1, *target.shape), bool),
            ignore=ignored[None] if ignored.any() else None,
            group=files.text_field(note, "group", str(path), ""),
        )
        return Example(f"{self._folder.name}/{path.name}#{sentence}", pixels[None], (prompt,))

    def _paint(self, note: dict, size: tuple[int, int], where: str) -> tuple[np.ndarray, np.ndarray]:
        painted = []
        for shape in files.list_field(note, "shapes", where):
            budget.charge(1, size, where)
            label = files.text_field(shape, "label", f"{where} shapes").lower()
            if label == "flag":
                continue
            points = masks.parse_points(files.field(shape, "points", f"{where} shapes"))
            if points is None:
                report_problem(
                    "bad mask", f"{where}: field 'points' must list at least two [x, y]; correct or remove the shape"
                )
                continue
            painted.append((masks.fill_polygons([points], *size), "ignore" in label))
        target, ignored = np.zeros(size, bool), np.zeros(size, bool)
        for mask, to_ignore in sorted(painted, key=lambda pair: int(pair[0].sum()))[::-1]:
            target[mask] = not to_ignore
            ignored[mask] = to_ignore and self._ignore == "official"
        return target, ignored


def _answers(explanations: files.Json) -> dict[str, str]:
    """By image: all its sentences ask for one target, and the explanation fits each."""
    found = {}
    for k, record in enumerate(explanations.content):
        where = f"{explanations.path}#{k}"
        image, outputs = (files.text_field(record, name, where) for name in ("image", "outputs"))
        found[image] = outputs.strip()
    return found
