"""The exact prompt strings of each task, and their tokenization.

The strings are those of the published system (HyperSeg commit 5cfcf52; class lists and regions follow its parent, PSALM, with
the fine-grained tokens after the image). Markers are placeholders for non-text content. Text of the user is never searched for
markers.
"""

from __future__ import annotations

import dataclasses

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import TASKS, Prompt
from hyperseg_jax.systems.hyperseg.entities import RELEASED, Entities
from hyperseg_jax.systems.psalm.markers import Marker, Name, PromptTokens
from hyperseg_jax.systems.psalm.rounds import Round, chat_rounds, tokenize_rounds
from hyperseg_jax.systems.psalm.templates import SEG, TokenIds
from hyperseg_jax.text.expressions import clean_video_expression

_IMAGE = "This is an image <image>\n<temporal>\n, Please "
_ANSWER = "\nSure, the segmentation result is <gt><seg>"
QUESTIONS = {
    "referring": _IMAGE + "doing Referring Segmentation according to the following instruction:\n<refer>",
    "reasoning": _IMAGE + "doing Reasoning Segmentation according to the following instruction:\n<refer>",
    "explain": _IMAGE + "doing Reasoning Segmentation according to the following instruction and explain why:\n<refer>",
    "video": "This is a frame <image>\n<temporal>\n, Please doing Reasoning Segmentation according to the following "
    "instruction.\nThis is all the instruction: <refer>\n",
    "panoptic": _IMAGE + "do Panoptic Segmentation.\nThis is all the candidate categories: {classes}.\n",
    "region": _IMAGE + "segment by given regions\nThis is all regions: {regions}\n",
}
ANSWERS = {
    "referring": _ANSWER,
    "reasoning": _ANSWER,
    "explain": _ANSWER,
    "video": _ANSWER,
    "panoptic": "\nSure, the segmentation result is <seg>",
    "entities": _ANSWER,  # <gt>: the names of the entities and [SEG], as in the paper; not in the release
    "region": "\n[SEG]<seg>",
}
SUPPORTED = ("referring", "reasoning", "panoptic", "region", "video", "chat")
BACKGROUND = "background"  # the last class of every class list


def normalize_prompt(prompt: Prompt) -> Prompt:
    """Returns the prompt with its text normalized as in training.

    Referring expressions end with a period, as RefCOCO's in the published data code; video expressions lose their "(s)";
    texts and class names are stripped. The processor calls it in training, validation, benchmarks and prediction. Normalizing
    twice changes nothing.
    """
    text = prompt.text.strip()
    if prompt.task == "referring" and text:
        text = text if text.endswith(".") else f"{text}."
    elif prompt.task == "video":
        text = clean_video_expression(text)
    entities = None if prompt.entities is None else tuple(name.strip() for name in prompt.entities)
    return dataclasses.replace(prompt, text=text, classes=tuple(name.strip() for name in prompt.classes), entities=entities)


def tokenize_prompt(
    prompt: Prompt, tokenizer: TokenIds, *, template: str = "v0", train: bool = False, entities: Entities = RELEASED
) -> PromptTokens:
    """Tokenizes a prompt with the prompt strings of its task.

    train: include prompt.answer (the text of a chat answer; the explanation before [SEG] in a reasoning answer). Otherwise a
    chat prompt ends at "ASSISTANT:", and a reasoning prompt requests no explanation. Labels begin two tokens before the
    answer, as in the published data code. entities: whether and how the answer to a class list names the entities. Raises
    UserError with the task if the prompt lacks its text, classes or regions.
    """
    _check_prompt(prompt)
    if prompt.task == "chat":
        ids, labels = tokenize_rounds(chat_rounds(prompt, train=train), tokenizer, template)
        return PromptTokens(ids, labels, (True,) * len(ids))
    names_entities = prompt.task == "panoptic" and entities.writes
    explain = train and prompt.task == "reasoning" and bool(prompt.answer.strip())
    task = "explain" if explain else prompt.task
    num_regions = len(prompt.regions) if prompt.task == "region" else 0
    listed = (*prompt.classes, BACKGROUND) if prompt.task == "panoptic" and entities.lists_classes else ()
    question = QUESTIONS[task].format(
        classes=", ".join(["<cls>"] * len(listed)), regions=" <region>," * (num_regions - 1) + " <region>."
    )
    seg = tokenizer.id_of(SEG)
    written: tuple[Name, ...] = ()
    answer_ids: tuple[int, ...] = (*tokenizer.encode(prompt.answer.strip()), seg) if explain else (seg,)
    if names_entities:
        entities.check_names((*prompt.classes, *(prompt.entities or ())))
        written = entities.answer(prompt, tokenizer)
        answer_ids = (int(Marker.NAME),) * len(written)
    answer = ANSWERS["entities" if names_entities else task]
    ids, labels = tokenize_rounds([Round(question, answer, answer_ids=answer_ids)], tokenizer, template)
    return PromptTokens(
        ids=ids,
        labels=labels,
        mask=(True,) * len(ids),
        expression=(*tokenizer.encode(prompt.text.strip()), seg) if Marker.REFER in ids else (),
        classes=tuple((*tokenizer.encode(name), seg) for name in listed),
        num_regions=num_regions,
        names=written,
    )


def before_names(tokens: PromptTokens) -> PromptTokens:
    """Returns the prompt up to the names of its answer, or up to its last [SEG] if it has none. Raises UserError for a chat
    prompt, whose answer has neither."""
    if Marker.SEG not in tokens.ids:
        raise UserError("a chat prompt is in one batch with class lists whose entities are named; ask it in a batch of its own")
    end = tokens.ids.index(Marker.NAME) if Marker.NAME in tokens.ids else tokens.ids.index(Marker.SEG) - 1
    return dataclasses.replace(tokens, ids=tokens.ids[:end], labels=tokens.labels[:end], mask=tokens.mask[:end], names=())


def _check_prompt(prompt: Prompt) -> None:
    """Raises UserError if HyperSeg has no prompt for the task, or its text, classes or regions are missing."""
    if prompt.task not in TASKS:
        raise UserError(f"task = {prompt.task!r}: use one of {', '.join(TASKS)}")
    if prompt.task not in SUPPORTED:
        raise UserError(f"task = {prompt.task!r}: HyperSeg does not support it; use one of {', '.join(SUPPORTED)}")
    if prompt.task == "panoptic":
        if not prompt.classes or not all(name.strip() for name in prompt.classes):
            raise UserError(f"a panoptic prompt needs class names, each with text; got {list(prompt.classes)}")
    elif prompt.task == "region":
        if not prompt.regions:
            raise UserError("a region prompt needs at least one region; got none")
    elif not prompt.text.strip():
        raise UserError(f"a {prompt.task} prompt needs a text; got {prompt.text!r}")
