"""The exact prompt strings of each task, and their tokenization.

The strings are those of the published system (InstructSeg commit 0134314). Markers are placeholders for non-text content. Text
of the user is never searched for markers.
"""

from __future__ import annotations

import dataclasses

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.psalm.markers import PromptTokens
from hyperseg_jax.systems.psalm.rounds import Round, chat_rounds, tokenize_rounds
from hyperseg_jax.systems.psalm.templates import SEG, TokenIds
from hyperseg_jax.text.expressions import clean_video_expression

_IMAGE = "This is an image <temporal>\n<image>\n, please doing "
_VIDEO = "There are reference frames and key frame <temporal>\n<image>\n. Please doing "
_VIDEO_TEXT = " Segmentation according to the following instruction.\nThis is all the instruction: <refer>\n"
QUESTIONS = {
    "referring": _IMAGE + "Referring Segmentation according to the following instruction:\n<refer>",
    "reasoning": _IMAGE + "Reasoning Segmentation according to the following instruction:\n<refer>",
    "explain": _IMAGE + "Reasoning Segmentation according to the following instruction and explain why:\n<refer>",
    "referring_video": _VIDEO + "Referring" + _VIDEO_TEXT,
    "reasoning_video": _VIDEO + "Reasoning" + _VIDEO_TEXT,
}
ANSWER = "\nSure, the segmentation result is <gt><seg>"
TASKS = ("referring", "reasoning", "video", "chat")


def normalize_prompt(prompt: Prompt) -> Prompt:
    """Returns the prompt with its text normalized as in training.

    Referring expressions end with a period, as in the published data code; expressions of reasoning videos lose their "(s)".
    The processor calls it in training, validation, benchmarks and prediction. Normalizing twice changes nothing.
    """
    text = prompt.text.strip()
    if _question(prompt) in ("referring", "referring_video") and text:
        text = text if text.endswith(".") else f"{text}."
    elif prompt.task == "video":
        text = clean_video_expression(text)
    return dataclasses.replace(prompt, text=text)


def tokenize_prompt(prompt: Prompt, tokenizer: TokenIds, *, template: str = "v0", train: bool = False) -> PromptTokens:
    """Tokenizes a prompt with the prompt strings of its task.

    train: include prompt.answer (the text of a chat answer; the explanation before [SEG] in a reasoning answer). Otherwise a
    chat prompt ends at "ASSISTANT:", and a reasoning prompt requests no explanation. No position attends to an end token, as in
    the published code, where it is also the padding. Raises UserError if the prompt lacks its text.
    """
    if prompt.task not in TASKS:
        raise UserError(f"task = {prompt.task!r}: InstructSeg does not support it; use one of {', '.join(TASKS)}")
    if not prompt.text.strip():
        raise UserError(f"a {prompt.task} prompt needs a text; got {prompt.text!r}")
    if prompt.task == "chat":
        rounds = chat_rounds(prompt, train=train)
        expression: tuple[int, ...] = ()
    else:
        seg = tokenizer.id_of(SEG)
        explain = train and prompt.task == "reasoning" and bool(prompt.answer.strip())
        answer_ids = (*tokenizer.encode(prompt.answer.strip()), seg) if explain else (seg,)
        expression = (*tokenizer.encode(prompt.text.strip()), seg)
        rounds = [Round(QUESTIONS["explain" if explain else _question(prompt)], ANSWER, answer_ids=answer_ids)]
    ids, labels = tokenize_rounds(rounds, tokenizer, template)
    return PromptTokens(ids, labels, tuple(token != tokenizer.eos_id for token in ids), expression)


def _question(prompt: Prompt) -> str:
    """Returns the key of QUESTIONS for a prompt that is answered by a mask."""
    if prompt.task == "video":
        return "reasoning_video" if prompt.needs_reasoning else "referring_video"
    return prompt.task
