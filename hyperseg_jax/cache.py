"""The cache folder, for data that can be recreated, and the cache of compiled programs."""

from __future__ import annotations

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """Returns $HYPERSEG_CACHE, or ~/.cache/hyperseg_jax if it is not set."""
    return pathlib.Path(os.environ.get("HYPERSEG_CACHE", "~/.cache/hyperseg_jax")).expanduser()


def set_compilation_cache(workdir: str = "") -> None:
    """Makes JAX keep compiled programs in WORKDIR/compiled if the workdir is in a bucket, so that a recreated slice starts
    without compiling, and in the cache folder otherwise. A folder that the user has set in JAX_COMPILATION_CACHE_DIR is kept.
    Must be called before JAX is imported."""
    folder = f"{workdir.rstrip('/')}/compiled" if "://" in workdir else str(cache_folder() / "compiled")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
