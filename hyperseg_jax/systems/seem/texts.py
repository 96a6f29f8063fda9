"""Texts as the token ids of CLIP's text encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ml_collections
import numpy as np
from jaxtyping import Int32

from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.tokenizer_path import tokenizer_path
from hyperseg_jax.text.tokenizer import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
STEP = 8
"""Texts are padded to a multiple of this many tokens."""


def load_tokenizer(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Loads the tokenizer in a file or folder; data.tokenizer by default, where {root} is data.root and "toy" is the toy
    tokenizer.

    Raises UserError if the text encoder has no embedding for some of its ids, or reads another end token.
    """
    file = tokenizer_path(config, path)
    loaded = Tokenizer.load(file, eos=END, added=(START,))
    text = config.model.text_encoder
    loaded.check_fits(text.vocab_size, "model.text_encoder.vocab_size")
    if loaded.eos_id != text.end_id:
        raise UserError(
            f"{file}: the end token has the id {loaded.eos_id}, but model.text_encoder.end_id = {text.end_id}; "
            "give the tokenizer that the model was trained with"
        )
    return loaded


def text_ids(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """Returns the ids of a text between start and end token, at most `context`; the words are cut, as published."""
    start = [tokenizer.id_of(START)]
    return [*start, *tokenizer.encode(text)[: context - 2], tokenizer.eos_id]


def pad_ids(rows: Sequence[Sequence[int]], count: int, length: int, end: int) -> Int32[np.ndarray, "{count} {length}"]:
    """Stacks texts, filled with the end token."""
    ids = np.full((count, length), end, np.int32)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    return ids


def padded_length(rows: Sequence[Sequence[int]], context: int) -> int:
    """Returns the smallest multiple of STEP that holds all texts, at most `context`."""
    return min(context, -(-max(map(len, rows), default=1) // STEP) * STEP)
