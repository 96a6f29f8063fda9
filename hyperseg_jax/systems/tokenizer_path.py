"""Where the tokenizer of a config is."""

from __future__ import annotations

import os

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.text.tokenizer import TOY_FILE


def tokenizer_path(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> str | os.PathLike[str]:
    """Returns the file or folder of the tokenizer: `path`, or data.tokenizer, where {root} is data.root and "toy" is the toy
    tokenizer. Raises UserError if data.root is needed and empty."""
    if path is None:
        name, root = str(config.data.tokenizer), config.data.get("root", "")
        if "{root}" in name and not root:
            raise UserError(f"data.root is empty, and data.tokenizer = {name!r} is below it; give --config.data.root=FOLDER")
        path = name.replace("{root}", root)
    return TOY_FILE if path == "toy" else path
