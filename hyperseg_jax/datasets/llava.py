"""LLaVA conversations: a list of {id, image, conversations: [{from: "human" | "gpt", value}]}; "<image>" marks the image."""

from __future__ import annotations

import os

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted.printing import escaped_value

IMAGE_MARK = "<image>"
SPEAKERS = ("human", "gpt")
"""Who says the question and the answer of a turn."""


class Llava:
    """Random access to the records with an image in file order, one prompt per question or per rounds_per_prompt questions.

    A prompt does not contain the turns of its conversation before its first one. text_only: the number of records skipped
    because they have no image.
    """

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        prompts_per_example: int = 4,
        rounds_per_prompt: int = 1,
    ):
        """image_root: `image` is relative to this folder. prompts_per_example: maximum number of questions per example; longer
        conversations are split into several examples. rounds_per_prompt: maximum number of consecutive turns of a prompt; the
        last one is its question, the others its history."""
        for name, value in (("prompts_per_example", prompts_per_example), ("rounds_per_prompt", rounds_per_prompt)):
            if value < 1:
                raise UserError(f"{name}={value} is too few; give at least 1")
        self._file = files.Json(json_path, list)
        self._images = files.existing_folder(image_root)
        self.text_only = 0
        self._items: list[tuple[int, list[list[int]]]] = []
        for number, record in enumerate(self._file.content):
            if isinstance(record, dict) and not fields.is_given(record, "image"):
                self.text_only += 1
                continue
            lines = record.get("conversations") if isinstance(record, dict) else None
            turns = range(len(lines) // 2) if isinstance(lines, list) else ()
            prompts = files.split_evenly(list(turns), rounds_per_prompt)
            chunks = files.split_evenly(prompts, prompts_per_example)
            self._items += [(number, chunk) for chunk in chunks or [[]]]  # without a turn, it raises when it is read

    def _location(self, number: int) -> str:
        return f"{self._file.path}#{number}"

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        number, turns_of_prompts = self._items[index]
        where = self._location(number)
        record = self._file.content[number]
        lines = fields.list_field(record, "conversations", where)
        if not lines or len(lines) % 2:
            why = f"field 'conversations' has {len(lines)} lines, expected a question and an answer for each turn"
            raise Problem("bad record", f"{where}: {why}; correct the record")
        pixels = files.read_image(files.path_field(self._images, record, "image", where))
        prompts = []
        for turns in turns_of_prompts:
            *history, (question, answer) = (self._read_turn(lines, turn, where) for turn in turns)
            prompts.append(Prompt(task="chat", text=question, answer=answer, history=tuple(history)))
        return Example(f"{self._file.path.name}#{number}.{turns_of_prompts[0][0]}", pixels[None], tuple(prompts))

    def _read_turn(self, lines: list, turn: int, where: str) -> tuple[str, str]:
        """Returns the question and the answer of a turn of a conversation."""
        texts = []
        for k, speaker in enumerate(SPEAKERS, 2 * turn):
            place = f"{where} conversations#{k}"
            if (found := fields.field(lines[k], "from", place)) != speaker:
                why = f"field 'from' is {escaped_value(found)}, expected {speaker!r}"
                raise Problem("bad record", f"{place}: {why}; correct the record")
            texts.append(fields.text_field(lines[k], "value", place))
        question, answer = texts
        return question.replace(IMAGE_MARK, "").strip(), answer.strip()
