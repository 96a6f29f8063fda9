"""LLaVA conversations: a list of {id, image, conversations: [{from: "human" | "gpt", value}]}; "<image>" marks the image."""

from __future__ import annotations

import os

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt

IMAGE_MARK = "<image>"


class Llava:
    """Random access to the records with an image in file order, one prompt per question.

    Each turn is an independent prompt without the earlier turns of its conversation. text_only: the number of records skipped
    because they have no image.
    """

    def __init__(self, json_path: str | os.PathLike, image_root: str | os.PathLike, *, prompts_per_example: int = 4):
        """image_root: `image` is relative to this folder. prompts_per_example: maximum number of questions per example; longer
        conversations are split into several examples."""
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        self._file = files.Json(json_path, list)
        self._images = files.existing_folder(image_root)
        self.text_only = 0
        self._items: list[tuple[int, list[int]]] = []
        for number, record in enumerate(self._file.content):
            if isinstance(record, dict) and "image" not in record:
                self.text_only += 1
                continue
            lines = record.get("conversations") if isinstance(record, dict) else None
            turns = range(len(lines) // 2) if isinstance(lines, list) else ()
            chunks = files.split_evenly(list(turns), prompts_per_example)
            self._items += [(number, chunk) for chunk in chunks or [[]]]  # without a turn, it raises when it is read

    def _location(self, number: int) -> str:
        return f"{self._file.path}#{number}"

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        number, turns = self._items[index]
        where = self._location(number)
        record = self._file.content[number]
        lines = files.list_field(record, "conversations", where)
        if not lines or len(lines) % 2:
            why = f"field 'conversations' has {len(lines)} lines, expected a question and an answer for each turn"
            raise Problem("bad record", f"{where}: {why}; correct the record")
        pixels = files.read_image(files.join_inside(self._images, files.field(record, "image", where), where))
        prompts = tuple(self._build_prompt(lines[2 * turn : 2 * turn + 2], where) for turn in turns)
        return Example(f"{self._file.path.name}#{number}.{turns[0]}", pixels[None], prompts)

    def _build_prompt(self, pair: list[dict], where: str) -> Prompt:
        speakers = [files.field(line, "from", where) for line in pair]
        if speakers != ["human", "gpt"]:
            raise UserError(f"{where}: field 'from' is {speakers}, expected ['human', 'gpt']; correct the record")
        question, answer = (files.text_field(line, "value", where) for line in pair)
        return Prompt(task="chat", text=question.replace(IMAGE_MARK, "").strip(), answer=answer.strip())
