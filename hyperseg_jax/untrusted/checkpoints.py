"""Validates Orbax checkpoints before Orbax opens them: Orbax itself follows links, blocks on pipes, and reads metadata and
arrays of any size."""

from __future__ import annotations

import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from etils import epath

from hyperseg_jax.untrusted import stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value

STEPS = 2**53
FILES, DEEPEST = 100_000, 8
"""Maximum number of files of a checkpoint, and maximum depth of its folders."""
LARGEST = 2**26
"""Maximum bytes of a file without array data."""
ROOT, TREE = "_CHECKPOINT_METADATA", "_METADATA"
TREE_FIELDS = {
    "tree_metadata": lambda value: type(value) is dict,
    "use_ocdbt": lambda value: value is True,  # otherwise each array has its own folder, named by the metadata
    "use_zarr3": lambda value: value is True,
    "store_array_data_equal_to_fill_value": lambda value: type(value) is bool,
    "custom_metadata": lambda value: value is None,
}
SCORES, SCORES_BYTES = "metrics", 2**12
"""The part with the score that determines the best checkpoint, and the maximum bytes of its file."""
AnyPath: TypeAlias = "pathlib.Path | epath.Path"
"""A local path, or a path in a bucket, which has no links and pipes."""


def is_step_name(name: str) -> bool:
    """Whether Orbax considers a folder of that name a checkpoint."""
    return re.fullmatch(r"(0|[1-9]\d*)\n?", name) is not None


def check_checkpoint(folder: AnyPath) -> None:
    """Raises BadFile if a folder is not a valid checkpoint. In a bucket, exceptions of its client are raised as well."""
    name = folder.name
    if not (name.isascii() and name.isdecimal()) or len(name) > len(str(STEPS)) or int(name) >= STEPS:
        raise BadFile("its name is not a step number")
    if (not is_remote(folder) and pathlib.Path(folder).is_symlink()) or not folder.is_dir():
        raise BadFile("is not a folder")
    for path, _ in walk_files(folder):
        if path.name == ROOT:
            _check_checkpoint_metadata(read_fields(path))
        elif path.name == TREE:
            _check_tree(read_fields(path))
        elif path == folder / SCORES / SCORES:
            _check_scores(read_fields(path, SCORES_BYTES))


def is_remote(path: AnyPath) -> bool:
    """Whether a path is in a bucket."""
    return stores.is_url(os.fspath(path))


def walk_files(folder: AnyPath) -> Iterator[tuple[AnyPath, int]]:
    """Yields all files below a folder and their sizes. Raises BadFile if one is not a regular file, or too large."""
    list_entries = _list_remote_entries if is_remote(folder) else _list_local_entries
    stack, count = [(folder, 0)], 0
    while stack:
        parent, depth = stack.pop()
        for path, mode, size in list_entries(parent):
            what, count = escaped(os.path.relpath(path, folder)), count + 1
            if count > FILES or depth > DEEPEST:
                raise BadFile(f"has more than {FILES} files, or folders deeper than {DEEPEST}")
            if stat.S_ISDIR(mode):
                stack.append((path, depth + 1))
            elif not stat.S_ISREG(mode):
                raise BadFile(f"{what} is not a regular file")
            elif parent.name != "d" and size > LARGEST:
                raise BadFile(f"{what} has {size} bytes, and the limit is {LARGEST}")
            else:
                yield path, size


def _list_local_entries(folder: AnyPath) -> Iterator[tuple[AnyPath, int, int]]:
    """Yields (path, mode, size) of the entries of a local folder; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            yield pathlib.Path(entry.path), status.st_mode, status.st_size


def _list_remote_entries(folder: AnyPath) -> Iterator[tuple[AnyPath, int, int]]:
    """Yields (path, mode, size) of the entries of a folder in a bucket."""
    for path in epath.Path(folder).iterdir():
        if path != folder:  # some stores have an object for the folder itself
            status = path.stat()
            yield path, stat.S_IFDIR if status.is_directory else stat.S_IFREG, status.length


def read_fields(path: AnyPath, largest: int = LARGEST) -> dict[str, Any]:
    """Reads a JSON object from a file of a checkpoint. Raises BadFile, OSError."""
    read = stores.read_contents if is_remote(path) else strict_json.read_bytes
    fields = strict_json.parse_any(read(path, largest), path.name, finite=False)  # the best score may be NaN
    if type(fields) is not dict:
        raise BadFile(f"{path.name} is not a JSON object")
    return fields


def _check_checkpoint_metadata(fields: Mapping[str, Any]) -> None:
    """Checks the fields of _CHECKPOINT_METADATA. Orbax reads this file of every checkpoint when it opens the parent folder, so
    one invalid file would block all checkpoints."""
    for name in ("init_timestamp_nsecs", "commit_timestamp_nsecs"):
        if not (fields.get(name) is None or (type(fields[name]) is int and 0 <= fields[name] < 2**62)):
            raise BadFile(f"{ROOT} has {escaped_value(fields[name])} in the field {name}, expected nanoseconds")
    scores, handlers = fields.get("metrics") or {}, fields.get("item_handlers")
    if type(scores) is not dict or set(scores) - {"best"} or not all(type(value) in (int, float) for value in scores.values()):
        raise BadFile(f'{ROOT} has {escaped_value(scores)} in the field metrics, expected {{"best": a number}}')
    if type(handlers) is not dict or not all(type(handler) is str for handler in handlers.values()):
        raise BadFile(f"{ROOT} has no object of strings in the field item_handlers")


def _check_scores(fields: Mapping[str, Any]) -> None:
    """Checks the file that Orbax reads for every checkpoint to find the best one."""
    if set(fields) != {"best"} or type(fields["best"]) not in (int, float):
        raise BadFile(f'{SCORES} is not {{"best": a number}}')


def _check_tree(fields: Mapping[str, Any]) -> None:
    """Checks the file that describes the tree of arrays."""
    for name, value in fields.items():
        if name not in TREE_FIELDS:
            raise BadFile(f"{TREE} has the unknown field {escaped(name)}")
        if not TREE_FIELDS[name](value):
            raise BadFile(f"{TREE} has an unsupported value in the field {name}")
    if not {"tree_metadata", "use_ocdbt", "use_zarr3"} <= fields.keys():
        raise BadFile(f"{TREE} lacks tree_metadata, use_ocdbt or use_zarr3")
