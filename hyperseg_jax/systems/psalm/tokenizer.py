"""Loads the tokenizer of a config."""

from __future__ import annotations

import os

import ml_collections

from hyperseg_jax.systems.psalm.templates import END, SEG
from hyperseg_jax.systems.tokenizer_path import tokenizer_path
from hyperseg_jax.text.tokenizer import Tokenizer


def load_tokenizer(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Loads the tokenizer in a file or folder; data.tokenizer by default, where {root} is data.root and "toy" is the toy
    tokenizer.

    Raises UserError if the language model has no embedding for some of its ids.
    """
    loaded = Tokenizer.load(tokenizer_path(config, path), eos=END, added=(SEG,))
    loaded.check_fits(config.model.llm.vocab_size, "model.llm.vocab_size")
    return loaded
