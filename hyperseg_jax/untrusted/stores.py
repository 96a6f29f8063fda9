"""Buckets, opened through fsspec with an allowlist of protocols; other protocols open archives, programs or chained URLs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped

PROTOCOLS = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "memory")
WORKDIRS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3", "az": "az", "abfs": "az", "abfss": "az"}
"""{protocol: its spelling for workdirs}. Checkpoints know one spelling of each."""
FILES, DEEPEST, BYTES = 10_000, 8, 2**34
"""Limits of `files`: number of files and folders, depth of folders, bytes of all files."""


def is_url(name: str) -> bool:
    """Whether a name is a URL and not a local path."""
    return "://" in name


def check_url(url: str) -> None:
    """Raises UserError for protocols that are not in PROTOCOLS, and for chained URLs ("zip://x::gs://y")."""
    if "::" in url or url.split("://")[0] not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
        raise UserError(f"{url}: is not a supported bucket URL; use a local path, or one of {known}")


def check_local(name: str) -> None:
    """Raises UserError for a URL where only local paths are supported."""
    if is_url(name):
        raise UserError(f"{name}: buckets are not supported here; copy the files, and give a local path")


def check_workdir(name: str | os.PathLike[str], *, client: bool = True) -> None:
    """Raises UserError for a workdir in a bucket as `check_url`, for other spellings of a protocol than that of WORKDIRS, and,
    unless `client` is False, if the package for the protocol is not installed. Accepts all local paths."""
    url = os.fspath(name)
    if not is_url(url):
        return
    check_url(url)
    scheme, _, rest = url.partition("://")
    if (spelling := WORKDIRS.get(scheme)) != scheme:
        raise UserError(f"{url}: workdirs cannot be named with {scheme}://; write {spelling or 'gs'}://{escaped(rest)}")
    if client:
        with _naming_package(url):
            import fsspec

            fsspec.get_filesystem_class(scheme)


@contextlib.contextmanager
def _naming_package(url: str) -> Iterator[None]:
    """Turns the exceptions of fsspec for packages that are not installed into UserError."""
    try:
        yield
    except (ImportError, ValueError) as error:
        scheme = url.split("://")[0]
        raise UserError(f"{url}: needs support for {scheme}:// ({error}); pip install 'hyperseg-jax[cloud]'") from error


def open_filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL and the path in it. Raises UserError as `check_url`, and if the package for the
    protocol is not installed."""
    check_url(url)
    with _naming_package(url):
        import fsspec

        store, path = fsspec.core.url_to_fs(url, **options)
    return store, path


def read_contents(path: epath.Path, most: int) -> bytes:
    """Reads a file in a bucket. Raises BadFile if it has more than `most` bytes, and any exceptions of the client."""
    if (size := path.stat().length) > most:
        raise BadFile(f"has {size} bytes, and the limit is {most}")
    return bytes(path.read_bytes())


def files(path: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Yields all files below a folder in a bucket, or the path itself if it is a file, with their names below path.parent.
    Raises BadFile for a name that leaves the folder (names of objects may contain ".."), and for more than FILES, DEEPEST or
    BYTES. Raises any exceptions of the client."""
    stack, count, size = [(path.name, path)], 0, 0
    while stack:
        name, path = stack.pop()
        if path.is_dir():
            for child in path.iterdir():
                count += 1
                if child.name == "..":
                    raise BadFile(f"{escaped(name)} contains a folder named '..'", "remove it from the bucket")
                if count > FILES or name.count("/") >= DEEPEST:
                    raise BadFile(
                        f"{escaped(name)} has more than {FILES} files, or folders deeper than {DEEPEST}", "remove some"
                    )
                if child != path:  # some stores have an object for the folder itself
                    stack.append((f"{name}/{child.name}", child))
        elif path.exists():
            size += path.stat().length
            if size > BYTES:
                raise BadFile(f"{escaped(name)} exceeds the limit of {BYTES} bytes", "remove it from the bucket")
            yield name, path
