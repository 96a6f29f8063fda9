"""Captions as token ids of fixed length, as published."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ml_collections
import numpy as np
from jaxtyping import Bool, Int32

from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.tokenizer_path import tokenizer_path
from hyperseg_jax.text.tokenizer import Tokenizer

END = {"gpt2": "<|endoftext|>", "llama": "</s>"}
"""The end token of each kind of language model."""
START = {"gpt2": "", "llama": "<s>"}
"""What a caption begins with in training: the authors' tokenizer of LLaMA adds its start token, which the model then learns to
write first."""


def load_tokenizer(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Loads the tokenizer in a file or folder; data.tokenizer by default, where {root} is data.root and "toy" is the toy
    tokenizer. Raises UserError if the language model has no embedding for some of its ids."""
    kind = config.model.llm.kind
    loaded = Tokenizer.load(tokenizer_path(config, path), eos=END.get(kind, ""))
    loaded.check_fits(config.model.llm.vocab_size, "model.llm.vocab_size")
    return loaded


def pack_captions(
    captions: Sequence[Sequence[int]], length: int, *, end: int, padding: int
) -> tuple[Int32[np.ndarray, "R length"], Bool[np.ndarray, "R length"]]:
    """Returns the ids of captions, each cut to length - 1 tokens and closed by the end token, and a mask that is False at
    padding, which may have the id of the end token (GPT-2)."""
    ids, mask = np.full((len(captions), length), padding, np.int32), np.zeros((len(captions), length), bool)
    for row, caption in enumerate(captions):
        tokens = [*caption[: length - 1], end]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
    return ids, mask


def caption_labels(ids: Int32[np.ndarray, "R length"], mask: Bool[np.ndarray, "R length"]) -> Int32[np.ndarray, "R labels"]:
    """Returns the labels: the ids without padding, after one position without a label (the last token of the region, which
    predicts the first word)."""
    return np.pad(np.where(mask, ids, IGNORED), ((0, 0), (1, 0)), constant_values=IGNORED).astype(np.int32)
