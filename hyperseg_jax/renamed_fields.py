"""Config fields, readers and flags that were renamed since earlier versions."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

FIELDS: Mapping[str, str] = {
    "data.mirror": "horizontal_flip",
    "data.augment.*.mirror": "horizontal_flip",
    "data.cuts": "length_buckets",
    "data.bad_share": "max_unreadable_share",
    "data.first": "curriculum",
    "data.tasks.*.*.group_by_clip": "group_by_video",
    "init_fresh": "init_optional",
    "optimizer.groups": "param_groups",
}
"""{old path, where * matches any name: new name of its last part}."""
READERS: Mapping[str, str] = {
    "coco_marks": "coco_visual_prompts",
    "spoken_frames": "referring_frames",
}
"""{old name: new name} of readers and of benchmarks of data/check."""
VALUES: Mapping[str, Mapping[str, str]] = {
    "data.tasks.*.reader": READERS,
    "data.tasks.*.*.name": READERS,
    "data.tasks.*.*.ignore": {"hyperseg": "released"},
}
"""{path, where * matches any name: {old value: new value}}."""
FLAGS: Mapping[str, str] = {"--pictures": "--images"}
"""{old name: new name} of command-line options."""


def new_name(path: str) -> str:
    """Returns the current path of a field, given its old path; "" if it was not renamed."""
    for old, new in FIELDS.items():
        if fnmatch.fnmatchcase(path, old) and path.count(".") == old.count("."):
            return ".".join((*path.split(".")[:-1], new))
    return ""


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error message for each field, reader or option that has an old name."""
    for path, _, name, new in _find_renamed(config):
        yield f"{'.'.join((*path, name))}: was renamed to {'.'.join((*path, new))}; use the new name"
    for path, block, name, new in _find_renamed_values(config):
        yield f"{'.'.join((*path, name))} = {block[name]!r}: was renamed to {new!r}; use the new name"


def migrate(config: dict[str, Any]) -> dict[str, Any]:
    """Renames old fields and readers in place, in a config that an earlier version wrote into a model folder or workdir."""
    for _, block, name, new in list(_find_renamed(config)):
        value = block.pop(name)
        block.setdefault(new, value)
    for _, block, name, new in list(_find_renamed_values(config)):
        block[name] = new
    return config


def _find_renamed(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, str, str]]:
    """Yields (path of the block, block, old name, new name) for each field of a config that has an old name."""
    for old, new in FIELDS.items():
        *blocks, name = old.split(".")
        for path, block in _find_blocks(config, tuple(blocks)):
            if name in block:
                yield path, block, name, new


def _find_renamed_values(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, str, str]]:
    """Yields (path of the block, block, field, new value) for each field of a config that has an old value."""
    for pattern, values in VALUES.items():
        *blocks, name = pattern.split(".")
        for path, block in _find_blocks(config, tuple(blocks)):
            if isinstance(value := block.get(name), str) and value in values:
                yield path, block, name, values[value]


def _find_blocks(config: Any, parts: tuple[str, ...], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, block) for each block that matches `parts`, where * matches any name. path: path of `config` itself."""
    if not isinstance(config, Mapping):
        return
    if not parts:
        yield path, config
        return
    names = [name for name in config if isinstance(name, str)] if parts[0] == "*" else [parts[0]]
    for name in names:
        yield from _find_blocks(config.get(name), parts[1:], (*path, name))
