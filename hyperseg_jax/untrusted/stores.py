"""Stores that are read and written through fsspec, by name. Others of fsspec open archives, programs or chains of addresses."""

from __future__ import annotations

from typing import Any

from etils import epath

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import BadFile

PROTOCOLS = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "memory")


def is_url(name: str) -> bool:
    """Whether a name is meant for a store and not for this machine."""
    return "://" in name


def check_url(url: str) -> None:
    """UserError for a store that is not among PROTOCOLS, and for a chain of them ("zip://x::gs://y")."""
    if "::" in url or url.split("://")[0] not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
        raise UserError(f"{url}: is no store that is read or written here; use a path of this machine, or one of {known}")


def check_local(name: str) -> None:
    """UserError for what lies in a store, where nothing but this machine is read or written."""
    if is_url(name):
        raise UserError(f"{name}: buckets are neither read nor written here; copy the files, and give a path of this machine")


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The store of fsspec and the path in it. UserError as for `check_url`, and for one whose package is not there."""
    check_url(url)
    scheme = url.split("://")[0]
    try:
        import fsspec

        store, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: needs support for {scheme}:// ({error}); pip install 'hyperseg-jax[cloud]'") from error
    return store, path


def contents(path: epath.Path, most: int) -> bytes:
    """The bytes of a file in a store. BadFile where there are more than `most`; a store's client raises what it likes."""
    if (size := path.stat().length) > most:
        raise BadFile(f"has {size} bytes, and the limit is {most}")
    return bytes(path.read_bytes())
