"""Tokenizes the rounds of a prompt: questions, and answers with their labels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Prompt
from hyperseg_jax.systems.psalm.templates import ROUND, TEMPLATES, TokenIds, encode_pieces, split_template

CHAT = "<image>\n{text}"
"""The first question of a chat."""
_SLOTS = re.compile(r"<[a-z]+>|\{[a-z]+\}|\[SEG\]")


@dataclasses.dataclass(frozen=True)
class Round:
    """A question and its answer as templates. answer: None if the model is to answer. words: the texts of the slots.
    answer_ids: token ids at the marker <gt>."""

    question: str
    answer: str | None
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    answer_ids: tuple[int, ...] = ()


def tokenize_rounds(rounds: Sequence[Round], tokenizer: TokenIds, template: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the token ids with markers, and the labels: IGNORED outside of answers.

    As in the published data code, each answer is followed by the end token, and the labels of the first round begin two tokens
    before the answer. template: one of TEMPLATES. Raises UserError for another one.
    """
    if template not in TEMPLATES:
        raise UserError(f"data.template = {template!r}: use one of {', '.join(TEMPLATES)}")
    ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    for number, each in enumerate(rounds):
        instruction = (ROUND if number else TEMPLATES[template]).format(question=each.question)
        if each.answer is None:
            question_ids = encode_pieces(split_template(instruction.rstrip(), each.words), tokenizer)
            ids, labels = ids + question_ids, labels + (IGNORED,) * len(question_ids)
            continue
        pieces = split_template(instruction + each.answer, each.words)
        round_ids = (*encode_pieces(pieces, tokenizer, each.answer_ids), tokenizer.eos_id)
        instruction_ids = encode_pieces(split_template(instruction, each.words), tokenizer)
        if not number:
            unsupervised = max(len(instruction_ids) - 2, 0)
        elif round_ids[: len(instruction_ids)] == instruction_ids:
            unsupervised = len(instruction_ids)
        else:  # the space before the answer is part of the answer's first token
            unsupervised = len(instruction_ids) - 1
        ids, labels = ids + round_ids, labels + (IGNORED,) * unsupervised + round_ids[unsupervised:]
    return ids, labels


def chat_rounds(prompt: Prompt, *, train: bool) -> list[Round]:
    """Returns the rounds of a chat prompt, with the image before the first question. train: include the last answer."""
    if not all(answer.strip() for _, answer in prompt.history):
        raise UserError("a round of the conversation before the question has no answer; give the answer of each earlier round")
    texts = [*prompt.history, (prompt.text, prompt.answer if train else "")]
    return [
        Round(
            "{text}" if number else CHAT,
            "{answer}" if answer.strip() else None,
            {"{text}": question.strip(), "{answer}": answer.strip()},
        )
        for number, (question, answer) in enumerate(texts)
    ]


def fixed_phrases(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Returns the fixed parts of all templates, which become single tokens of a toy tokenizer. pairs: templates of questions
    and answers."""
    phrases = {" ASSISTANT:"}
    openings = {template.split("{question}")[0] for template in TEMPLATES.values()}
    for question, answer in (*pairs, (CHAT, "")):
        first, *rest = _SLOTS.split(question)
        phrases |= {opening + first for opening in openings} | {*rest, *_SLOTS.split(answer)}
    return {phrase for phrase in phrases if len(phrase) > 1}
