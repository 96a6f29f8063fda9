"""Checkpoints that Orbax wrote, looked at before it opens them: by itself it follows links, waits for pipes, and takes metadata
and arrays as large as they are."""

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
from hyperseg_jax.untrusted.printing import shown

STEPS = 2**53
FILES, DEEPEST = 100_000, 8
"""Of one checkpoint, and how deep its folders nest."""
LARGEST = 2**26
"""Bytes of a file that holds no arrays."""
ROOT, TREE = "_CHECKPOINT_METADATA", "_METADATA"
TREE_FIELDS = {
    "tree_metadata": lambda value: type(value) is dict,
    "use_ocdbt": lambda value: value is True,  # else each array lies in a folder of its own, named by the metadata
    "use_zarr3": lambda value: value is True,
    "store_array_data_equal_to_fill_value": lambda value: type(value) is bool,
    "custom_metadata": lambda value: value is None,
}
SCORES, SCORES_BYTES = "metrics", 2**12
"""The part with the score that tells the best checkpoint, and the bytes of its file."""
AnyPath: TypeAlias = "pathlib.Path | epath.Path"
"""Of this machine, or in a bucket, which has no links and pipes."""


def is_named_as_step(name: str) -> bool:
    """Whether Orbax takes a folder of that name for a checkpoint."""
    return re.fullmatch(r"(0|[1-9]\d*)\n?", name) is not None


def check(folder: AnyPath) -> None:
    """BadFile where a folder is no checkpoint that may be opened. In a bucket, whatever its client raises as well."""
    name = folder.name
    if not (name.isascii() and name.isdecimal()) or len(name) > len(str(STEPS)) or int(name) >= STEPS:
        raise BadFile("its name is no step of a run")
    if (not is_remote(folder) and pathlib.Path(folder).is_symlink()) or not folder.is_dir():
        raise BadFile("is no folder")
    for path, _ in files(folder):
        if path.name == ROOT:
            _check_root(fields_of(path))
        elif path.name == TREE:
            _check_tree(fields_of(path))
        elif path == folder / SCORES / SCORES:
            _check_scores(fields_of(path, SCORES_BYTES))


def is_remote(path: AnyPath) -> bool:
    """Whether it lies in a bucket."""
    return stores.is_url(os.fspath(path))


def files(folder: AnyPath) -> Iterator[tuple[AnyPath, int]]:
    """All files below a folder and their sizes. BadFile where one is no regular file, or too large for what it is."""
    entries = _entries_there if is_remote(folder) else _entries_here
    waiting, seen = [(folder, 0)], 0
    while waiting:
        parent, depth = waiting.pop()
        for path, kind, size in entries(parent):
            what, seen = shown(os.path.relpath(path, folder)), seen + 1
            if seen > FILES or depth > DEEPEST:
                raise BadFile(f"has more than {FILES} files, or folders deeper than {DEEPEST}")
            if stat.S_ISDIR(kind):
                waiting.append((path, depth + 1))
            elif not stat.S_ISREG(kind):
                raise BadFile(f"{what} is no regular file")
            elif parent.name != "d" and size > LARGEST:
                raise BadFile(f"{what} has {size} bytes, and the limit is {LARGEST}")
            else:
                yield path, size


def _entries_here(folder: AnyPath) -> Iterator[tuple[AnyPath, int, int]]:
    """(path, kind, size) of what lies in a folder of this machine; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            yield pathlib.Path(entry.path), found.st_mode, found.st_size


def _entries_there(folder: AnyPath) -> Iterator[tuple[AnyPath, int, int]]:
    """The same of a bucket."""
    for path in epath.Path(folder).iterdir():
        if path.name:  # some stores have an object for the folder itself
            found = path.stat()
            yield path, stat.S_IFDIR if found.is_directory else stat.S_IFREG, found.length


def fields_of(path: AnyPath, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. Raises BadFile, OSError."""
    read = stores.contents if is_remote(path) else strict_json.contents
    fields = strict_json.parse_any(read(path, largest), path.name, finite=False)  # the best score may be NaN
    if type(fields) is not dict:
        raise BadFile(f"{path.name} is not a JSON object")
    return fields


def _check_root(fields: Mapping[str, Any]) -> None:
    """Fields that Orbax reads while it opens the folder, where one checkpoint would keep all others from being opened."""
    for name in ("init_timestamp_nsecs", "commit_timestamp_nsecs"):
        if not (fields.get(name) is None or (type(fields[name]) is int and 0 <= fields[name] < 2**62)):
            raise BadFile(f"{ROOT} has a {name} that is no time")
    scores, handlers = fields.get("metrics") or {}, fields.get("item_handlers")
    if type(scores) is not dict or set(scores) - {"best"} or not all(type(value) in (int, float) for value in scores.values()):
        raise BadFile(f"{ROOT} has metrics that are no score")
    if type(handlers) is not dict or not all(type(handler) is str for handler in handlers.values()):
        raise BadFile(f"{ROOT} has no item_handlers")


def _check_scores(fields: Mapping[str, Any]) -> None:
    """The file that Orbax reads of every checkpoint to find the best one."""
    if set(fields) != {"best"} or type(fields["best"]) not in (int, float):
        raise BadFile(f"{SCORES} has no score")


def _check_tree(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in TREE_FIELDS or not TREE_FIELDS[name](value):
            raise BadFile(f"{TREE} has a {shown(name)} that is not known here")
    if not {"tree_metadata", "use_ocdbt", "use_zarr3"} <= fields.keys():
        raise BadFile(f"{TREE} is of another format")
