"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """HYPERSEG_CACHE, else ~/.cache/hyperseg_jax."""
    return pathlib.Path(os.environ.get("HYPERSEG_CACHE", "~/.cache/hyperseg_jax")).expanduser()
