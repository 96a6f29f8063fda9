"""Checkpoints that Orbax wrote, looked at before it opens them: by itself it follows links, waits for pipes, and takes metadata
and arrays as large as they are."""

from __future__ import annotations

import math
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown

STEPS = 2**53
DESCRIPTIONS = 2**25
"""Bytes of what describes the arrays of a part."""
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
FACTS = "run"
"""The part of a checkpoint whose shapes nobody knows before it is read, and how many bytes its arrays may take."""
FACTS_BYTES = 2**20


def is_named_as_step(name: str) -> bool:
    """Whether Orbax takes a folder of that name for a checkpoint."""
    return re.fullmatch(r"(0|[1-9]\d*)\n?", name) is not None


def check(folder: pathlib.Path) -> None:
    """BadFile where a folder on this machine is no checkpoint that may be opened."""
    name = folder.name
    if not (name.isascii() and name.isdecimal()) or len(name) > len(str(STEPS)) or int(name) >= STEPS:
        raise BadFile("its name is no step of a run")
    if folder.is_symlink() or not folder.is_dir():
        raise BadFile("is no folder")
    for path, _ in _files(folder):
        if path.name == ROOT:
            _check_root(_fields(path))
        elif path.name == TREE:
            _check_tree(_fields(path))
        elif path == folder / SCORES / SCORES:
            _check_scores(_fields(path, SCORES_BYTES))


def check_arrays(folder: pathlib.Path, sizes: Mapping[str, int]) -> None:
    """BadFile where reading a checkpoint would take more memory than the arrays that are asked of it. sizes: their bytes, by
    part."""
    for part, size in {**sizes, FACTS: FACTS_BYTES}.items():
        if sum(stored for _, stored in _files(folder / part)) > 4 * size + LARGEST:
            raise BadFile(f"its {part} has far more bytes than its arrays")
        taken = sum(_bytes(name, array) for name, array in _arrays(folder / part))
        if part == FACTS and taken > size:
            raise BadFile(f"its {part} has arrays of {taken} bytes, and the limit is {size}")


def _files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, int]]:
    """All files below a folder and their sizes. BadFile where one is no regular file, or too large for what it is."""
    waiting, seen = [(folder, 0)], 0
    while waiting:
        parent, depth = waiting.pop()
        with os.scandir(parent) as entries:
            for entry in entries:
                found, path = entry.stat(follow_symlinks=False), pathlib.Path(entry.path)
                what, seen = shown(str(path.relative_to(folder))), seen + 1
                if seen > FILES or depth > DEEPEST:
                    raise BadFile(f"has more than {FILES} files, or folders deeper than {DEEPEST}")
                if stat.S_ISDIR(found.st_mode):
                    waiting.append((path, depth + 1))
                elif not stat.S_ISREG(found.st_mode):
                    raise BadFile(f"{what} is no regular file")
                elif parent.name != "d" and found.st_size > LARGEST:
                    raise BadFile(f"{what} has {found.st_size} bytes, and the limit is {LARGEST}")
                else:
                    yield path, found.st_size


def _fields(path: pathlib.Path, largest: int = LARGEST) -> dict[str, Any]:
    fields = strict_json.parse_any(strict_json.contents(path, largest), path.name, finite=False)  # the best score may be NaN
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


def _arrays(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the description of every array of a part that its metadata lists, which are those that Orbax reads. They are
    read one after the other, as many names may share one value."""
    import tensorstore  # late: takes a moment to import

    base = {"driver": "file", "path": f"{folder}/"}
    store, taken = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result(), 0
    for name in _names(_fields(folder / TREE)["tree_metadata"]):
        found = store.read(f"{name}/zarr.json").result()
        if found.state != "value":  # Orbax keeps texts and what is empty elsewhere
            continue
        taken += len(found.value)
        if taken > DESCRIPTIONS:
            raise BadFile(f"the descriptions of its arrays take more than {DESCRIPTIONS} bytes")
        yield shown(name), strict_json.parse(bytes(found.value), shown(name))


def _names(listed: Mapping[str, Any]) -> Iterator[str]:
    for entry in listed.values():
        try:
            yield ".".join(part["key"] for part in entry["key_metadata"])
        except (KeyError, TypeError) as error:
            raise BadFile(f"{TREE} has an entry without names") from error


def _bytes(name: str, array: Mapping[str, Any]) -> int:
    """What an array takes in memory. BadFile where a chunk of it takes more."""
    import tensorstore

    try:
        shape, chunk = array["shape"], array["chunk_grid"]["configuration"]["chunk_shape"]
        fits = len(shape) == len(chunk) and all(0 <= c <= max(n, 1) for n, c in zip(shape, chunk, strict=True))
        size = math.prod(shape) * tensorstore.dtype(array["data_type"]).numpy_dtype.itemsize
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{name} describes no array") from error
    if not fits or size < 0:
        raise BadFile(f"{name} has chunks larger than its array")
    return size
