"""VQAv2: v2_OpenEnded_mscoco_{split}_questions.json {questions: [{question_id, image_id, question}]} and
v2_mscoco_{split}_annotations.json {annotations: [{question_id, multiple_choice_answer, answer_type, answers: [{answer}]}]}."""

from __future__ import annotations

import os
import pathlib

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem, note_problem, report_problem
from hyperseg_jax.datasets.id_index import IdIndex, check_image
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted.printing import escaped_value

MIN_ANSWERS = 2
"""Minimum number of answers that VQA accuracy can compare."""
MAX_ANSWERS = 1000
"""Maximum number of answers of a question."""


class VqaV2(PerImage):
    """Random access to the questions of one file in file order. answers: of ten annotators. group: the answer type."""

    def __init__(
        self,
        questions_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        annotations_path: str | os.PathLike | None = None,
        prompts_per_example: int = 1,
        suffix: str = "",
    ):
        """image_root: COCO's image folder of the split (train2014, val2014, test2015), whose name is part of the image names.
        annotations_path: None for test splits, whose answers are not public. suffix: appended to each question."""
        self._file = files.Json(questions_path, dict)
        self._images = files.existing_folder(image_root)
        self.name, self._suffix = self._file.path.name, suffix
        self._questions = fields.list_field(self._file.content, "questions", str(self._file.path))
        self._question_index = IdIndex(self._questions, "question_id", f"{self._file.path} questions", strict=False)
        self._answers: IdIndex | None = None
        self.notes: tuple[str, ...] = ()
        if annotations_path:
            self._answers_path = str(annotations_path)
            self._annotations = fields.list_field(files.Json(annotations_path, dict).content, "annotations", self._answers_path)
            self._answers = IdIndex(self._annotations, "question_id", f"{self._answers_path} annotations", strict=False)
            if unasked := [key for key in self._answers if key not in self._question_index]:
                what = f"{len(unasked)} answers of {self._answers_path} have no question in {self.name} and are left out"
                self.notes = (f"{what}; the first: question_id {escaped_value(unasked[0])}",)
        self._group_prompts(len(self._questions), self._image_id, prompts_per_example)

    def _location(self, n: int) -> str:
        return f"{self._file.path} questions#{n}"

    def _image_id(self, n: int) -> int:
        return fields.integer_field(self._questions[n], "image_id", self._location(n))

    def _image_path_and_size(self, n: int) -> tuple[pathlib.Path, None]:
        name = f"COCO_{self._images.name}_{self._image_id(n):012d}.jpg"
        return files.join_inside(self._images, name, self._location(n)), None

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        row, where = self._questions[n], self._location(n)
        key = fields.id_field(row, "question_id", where)
        self._question_index[key]  # reports duplicates
        annotation: dict = {}
        if self._answers is not None and key in self._answers:
            annotation = self._annotations[self._answers[key]]
            check_image(annotation, self._image_id(n), f"{self._answers_path} question_id {key}")
        elif self._answers is not None:
            report_problem("bad record", f"{where}: question_id {key} has no answer; use both files of the same split")
        answer_where = where if self._answers is None else f"{self._answers_path} question_id {key}"
        answers = fields.list_field(annotation, "answers", answer_where) if "answers" in annotation else []
        if len(answers) > MAX_ANSWERS:
            raise Problem(
                "bad record",
                f"{answer_where}: has {len(answers)} answers, and at most {MAX_ANSWERS} are supported; remove some",
            )
        if annotation and len(answers) < MIN_ANSWERS:
            message = (
                f"{answer_where}: has {len(answers)} answers, and the accuracy needs {MIN_ANSWERS}; download the file again"
            )
            note_problem("bad record", message)
        return Prompt(
            task="chat",
            text=fields.sentence_field(row, "question", where) + self._suffix,
            answer=fields.text_field(annotation, "multiple_choice_answer", answer_where, ""),
            answers=tuple(fields.text_field(row, "answer", f"{answer_where} answers#{k}") for k, row in enumerate(answers)),
            group=fields.optional_name_field(annotation, "answer_type", answer_where),
            key=str(key),
        )
