"""Loads the tokenizer of a config."""

from __future__ import annotations

import os

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.psalm.templates import END, SEG
from hyperseg_jax.text.tokenizer import Tokenizer


def load_tokenizer(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Loads the tokenizer in a file or folder; data.tokenizer by default, where {root} is data.root and "toy" is the toy
    tokenizer.

    Raises UserError if the language model has no embedding for some of its ids.
    """
    if path is None:
        name, root = str(config.data.tokenizer), config.data.get("root", "")
        if "{root}" in name and not root:
            raise UserError(f"data.root is empty, and data.tokenizer = {name!r} is below it; give --config.data.root=FOLDER")
        path = name.replace("{root}", root)
    loaded = Tokenizer.toy() if path == "toy" else Tokenizer.load(path, eos=END, added=(SEG,))
    loaded.check_fits(config.model.llm.vocab_size, "model.llm.vocab_size")
    return loaded
