"""The cache folder, for data that can be recreated."""

from __future__ import annotations

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """Returns $HYPERSEG_CACHE, or ~/.cache/hyperseg_jax if it is not set."""
    return pathlib.Path(os.environ.get("HYPERSEG_CACHE", "~/.cache/hyperseg_jax")).expanduser()
