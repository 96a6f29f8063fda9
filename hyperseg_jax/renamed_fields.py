"""Config fields, readers and flags that had another name in earlier versions."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

FIELDS: Mapping[str, str] = {
    "data.mirror": "horizontal_flip",
    "data.augment.*.mirror": "horizontal_flip",
    "data.cuts": "length_buckets",
    "data.bad_share": "max_unreadable_share",
    "optimizer.groups": "param_groups",
}
"""By the old path, where * stands for any name: the new name of the last part."""
READERS: Mapping[str, str] = {
    "coco_marks": "coco_visual_prompts",
    "spoken_frames": "referring_frames",
}


FLAGS: Mapping[str, str] = {"--pictures": "--images"}


def new_name(path: str) -> str:
    """The path of a field that had this one before; "" for none."""
    for old, new in FIELDS.items():
        if fnmatch.fnmatchcase(path, old) and path.count(".") == old.count("."):
            return f"{path.rpartition('.')[0]}.{new}"
    return ""


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """A line for each field or reader that has an old name."""
    for path, _, name, new in _found(config):
        yield f"{'.'.join((*path, name))}: is named {'.'.join((*path, new))} now; rename it"
    for path, task in _tasks(config):
        if (reader := task["reader"]) in READERS:
            yield f"{'.'.join(path)}.reader = {reader!r}: is named {READERS[reader]!r} now; rename it"


def migrate(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the new names, changed in place: what an earlier version wrote into a model folder or workdir."""
    for _, block, name, new in list(_found(config)):
        value = block.pop(name)
        block.setdefault(new, value)
    for _, task in _tasks(config):
        task["reader"] = READERS.get(task["reader"], task["reader"])
    return config


def _found(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, str, str]]:
    """(path of the block, the block, the old name, the new name)."""
    for old, new in FIELDS.items():
        *blocks, name = old.split(".")
        for path, block in _blocks(config, tuple(blocks)):
            if name in block:
                yield path, block, name, new


def _blocks(config: Any, parts: tuple[str, ...], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(config, Mapping):
        return
    if not parts:
        yield path, config
        return
    names = [name for name in config if isinstance(name, str)] if parts[0] == "*" else [parts[0]]
    for name in names:
        yield from _blocks(config.get(name), parts[1:], (*path, name))


def _tasks(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, task in _blocks(config, ("data", "tasks", "*")):
        if isinstance(task.get("reader"), str):
            yield path, task
