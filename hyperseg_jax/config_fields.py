"""Validates config fields: each must have the type that it has in the shipped configs, and numbers must be within bounds.

A block is a nested dict of fields, such as `train` or `data.tasks.referring`.

Configs of the command line are checked before any work begins; configs in model folders, which are untrusted, are checked
before anything is built from them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted import regexes
from hyperseg_jax.untrusted.printing import escaped_value

MAX_INTEGER, MAX_ANY = 2**31 - 1, 2**63 - 1
"""Bounds of integers that have no others in BOUNDS, and of those in blocks that are checked elsewhere."""
TOY_IMAGES, TOY_CLIPS = 20_000, 2_000
"""Maximum number of images of each split, and of clips, of the toy world that a config describes."""
TOY_FIELDS = {
    **dict.fromkeys(("seed", "train", "val", "compositional", "clips"), 0),
    **{"level": "default", "kinds": "known", "videos": "default"},
}
"""All fields of `data.toy`, with example values."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    # sizes of models
    "image_size": (1, 2**14),
    "patch_size": (1, 1024),
    "window": (1, 64),
    **dict.fromkeys(("depths", "blocks"), (1, 256)),
    "num_layers": (1, 256),
    "num_levels": (1, 16),
    **dict.fromkeys(("num_heads", "num_kv_heads", "num_groups", "heads"), (1, 1024)),
    "num_positions": (1, 2**20),
    **dict.fromkeys(("side", "base"), (1, 1024)),
    "text_buckets": (2, 2**14),
    "neighbours": (1, 1024),
    "head_dim": (1, 4096),
    "num_queries": (1, 4096),
    "vocab_size": (1, 2**22),
    "head_vocab_size": (1, 2**22),
    "group_norm_groups": (1, 4096),
    "mlp_ratio": (1 / 64, 64),
    "feature_layer": (-256, 256),
    "global_layers": (0, 255),
    "end_id": (0, 2**22),
    "rotary_fraction": (0, 1),
    "rotary_theta": (1e-6, 1e12),
    "epsilon": (0, 1),
    "query_std": (0, 1e6),
    "embedding_std": (0, 1e6),
    "rank": (0, 4096),
    "dropout": (0, 0.999),
    "drop_path": (0, 0.999),
    **dict.fromkeys(("hidden_size", "conv_dim", "mask_dim", "fusion_size"), (1, 2**16)),
    **dict.fromkeys(("mlp_size", "feedforward_dim"), (1, 2**18)),
    # sizes of batches
    **dict.fromkeys(("buckets", "length_buckets", "length"), (1, 2**17)),
    **dict.fromkeys(("frames", "prompts"), (1, 2**12)),
    **dict.fromkeys(("targets", "planes", "classes", "regions"), (0, 2**14)),
    **dict.fromkeys(("references", "reference_frames"), (0, 64)),
    "expression": (1, 2**12),
    **dict.fromkeys(("phrases", "points", "excluded", "class_length"), (0, 2**12)),
    **dict.fromkeys(("rounds", "num_memories"), (0, 1000)),
    **dict.fromkeys(("context", "levels", "windows", "kernels", "neck_features", "hidden_sizes", "class_dim"), (1, 2**14)),
    **dict.fromkeys(("masks", "answers", "drawn_on", "bicubic", "words", "trained"), (0, 1)),
    # sizes of images in prediction
    **dict.fromkeys(("short_side", "long_side"), (0, 2**14)),
    "multiple": (16, 2**14),
    # training
    "seed": (0, 2**32 - 1),
    "ratio": (0, 10**6),
    "workers": (0, 1024),
    **dict.fromkeys(("share", "max_unreadable_share"), (0, 1)),
    "horizontal_flip": (0, 1),
    "batch_size": (1, 2**20),
    **dict.fromkeys(("steps", "log_every", "save_every", "eval_every", "eval_examples", "keep"), (1, MAX_INTEGER)),
    **dict.fromkeys(("start", "barrier", "heartbeat", "watchdog"), (1, 10**8)),
    **dict.fromkeys(("data", "fsdp", "tensor", "space"), (0, 2**20)),
    "profile": (0, MAX_INTEGER),
    "accumulate": (1, 2**20),
    "learning_rate": (0, 1e6),
    "warmup_steps": (0, MAX_INTEGER),
    "final_rate": (0, 1e6),
    "betas": (0, 1),
    "clip_norm": (0, 1e30),
    "rate": (0, 1e9),
    "decay": (0, 1e9),
    "average": (0, 1),
    **dict.fromkeys(("train", "val", "compositional"), (0, TOY_IMAGES)),
    "clips": (0, TOY_CLIPS),
    # losses
    "num_points": (1, 2**20),
    "oversample": (1, 1000),
    "importance": (0, 1),
}
"""{field name: (minimum, maximum)} of numeric fields, in any block."""
WEIGHTS = (0, 1e9)
"""Bounds of fields whose names end in _weight."""
LENGTHS = {
    "betas": (2, 2),
    "profile": (2, 2),
    "depths": (4, 4),
    "blocks": (3, 3),
    "base": (2, 2),
    **dict.fromkeys(("num_heads", "num_groups", "levels", "windows", "kernels", "neck_features", "hidden_sizes"), (4, 4)),
    "buckets": (1, 100),
    "param_groups": (1, 1000),
}
"""{field name: (minimum, maximum)} of the lengths of lists."""
ELEMENTS: Mapping[str, Any] = {"length_buckets": 0}
"""Example elements of lists that are empty in the shipped configs; other empty lists hold strings."""
REGEXES = ("init_optional", "init_ignored", "pattern")
SIMPLE_REGEX = (
    f"a regular expression of ASCII letters, without flags and with at most {regexes.REPEATS} repeats, none of them inside "
    "another (docs/security.md)"
)
CHOICES = {"frozen_type": ("", "float32", "bfloat16", "float16"), "padding": ("zero", "grey")}
"""{field name: its possible values} of strings."""
UNCHECKED_BLOCKS = ("data.tasks", "data.augment", "data.toy", "limits")
"""Blocks with user-defined names, or that are checked elsewhere."""
TASK_FIELDS = {"reader": "", "ratio": 0}
"""Fields of every task; the other fields are sizes that depend on the system."""
SYSTEM_BLOCKS = ("model", "loss")
"""Blocks whose fields depend on the system."""
SYSTEM_DATA_FIELDS = ("template", "image_size", "buckets", "resize", "padding")
"""Fields of `data` that depend on the system."""
NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


def problems(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error message for each invalid field of a config.

    known: all fields that configs of this system may have, with example values (see `merge_schemas`). Blocks that depend on the
    system are only checked if they are in `known`.
    """
    patterns = _patterns(config)
    if problem := regexes.size_problem(patterns):  # before any of them is parsed
        yield f"optimizer.param_groups and init_*: {problem}"
        return
    invalid_names = False
    for problem in name_problems("", config):
        invalid_names = True
        yield problem
    if invalid_names:  # other messages would print these names
        return
    yield from _block_problems("", config, known)
    ways = list(map(regexes.count_ways, patterns))
    if max(ways, default=0) <= regexes.WAYS < sum(ways):
        yield f"optimizer.param_groups and init_*: they can match in too many ways; give {SIMPLE_REGEX} in each"
    sizes = known.get("sizes")
    data = config.get("data")
    tasks, augment = (data.get("tasks"), data.get("augment")) if isinstance(data, Mapping) else (None, None)
    for name, block in augment.items() if isinstance(augment, Mapping) else ():
        if not isinstance(block, Mapping):
            yield f"data.augment: {escaped_value(name)} is {escaped_value(block)}; give a task and a block of fields"
    if isinstance(data, Mapping) and isinstance(toy := data.get("toy"), Mapping):
        yield from toy_problems(toy)
    if isinstance(tasks, Mapping):
        if not tasks:
            yield "data.tasks: is empty; add at least one task"
        for name, task in tasks.items():
            yield from _task_problems(f"data.tasks.{name}", name, task, sizes)


def _patterns(config: Mapping[str, Any]) -> list[str]:
    """Returns the regular expressions of a config."""
    optimizer = config.get("optimizer")
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    lists = (groups, config.get("init_optional"), config.get("init_ignored"))
    rules, *others = (value if isinstance(value, list | tuple) else () for value in lists)
    found = [*(rule.get("pattern") for rule in rules if isinstance(rule, Mapping)), *others[0], *others[1]]
    return [pattern for pattern in found if isinstance(pattern, str)]


def toy_problems(block: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error message for each invalid field of `data.toy`, the parameters of the toy world."""
    for name, value in block.items():
        if name not in TOY_FIELDS:
            yield f"data.toy: {escaped_value(name)}: no such field; known fields: {', '.join(TOY_FIELDS)}"
        else:
            yield from _field_problems(f"data.toy.{name}", name, value, TOY_FIELDS[name])


def merge_schemas(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of several configs in one nested dict, with example values that determine their types: those of the
    first config that has the field. "sizes" contains the size fields of all their tasks."""
    blocks = [task for config in configs for task in config["data"]["tasks"].values()]
    empty: dict[str, Any] = {}
    task_fields = functools.reduce(_merge_fields, blocks, empty)
    sizes = {name: value for name, value in task_fields.items() if name not in (*TASK_FIELDS, "train", "val")}
    return functools.reduce(_merge_fields, configs, empty) | {"sizes": sizes}


def common_fields(known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of `known` that does not depend on the system. known: result of `merge_schemas`."""
    data = {name: value for name, value in known["data"].items() if name not in SYSTEM_DATA_FIELDS}
    return {name: value for name, value in known.items() if name not in (*SYSTEM_BLOCKS, "sizes")} | {"data": data}


def _merge_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `first` with the fields that only `second` has, in nested blocks as well."""
    merged = dict(first)
    for name, value in second.items():
        existing = merged.setdefault(name, value)
        if isinstance(existing, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge_fields(existing, value)
    return merged


def name_problems(path: str, value: Any) -> Iterator[str]:
    """Yields an error message for each invalid field name in a value, and for each integer beyond MAX_ANY, in nested blocks and
    lists as well. path: field of the value, "" for a whole config."""
    if type(value) is int and abs(value) > MAX_ANY:
        yield f"{path} = {escaped_value(value)}: give an integer from {-MAX_ANY} to {MAX_ANY}"
    members = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner in members:
        if isinstance(value, Mapping) and not (isinstance(name, str) and NAME.fullmatch(name)):
            yield f"{path or 'config'}: {escaped_value(name)} is not a valid field name; use letters, digits and _"
        else:
            yield from name_problems(f"{path}.{name}" if path else str(name), inner)


def _block_problems(path: str, block: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error message for each invalid field of a block. Unknown fields are errors in `model` only."""
    for name, value in block.items():
        field_path = f"{path}.{name}" if path else name
        if field_path in UNCHECKED_BLOCKS:
            if not isinstance(value, Mapping):
                yield f"{field_path} = {escaped_value(value)}: give a block of fields"
        elif name in known:
            yield from _field_problems(field_path, name, value, known[name])
        elif path.startswith("model"):
            yield f"{field_path}: no such field; known fields: {', '.join(known)}"


def _field_problems(path: str, name: str, value: Any, example: Any) -> Iterator[str]:
    """Yields an error message for each invalid part of a value. example: a valid value of the field."""
    if isinstance(example, Mapping):
        if isinstance(value, Mapping):
            yield from _block_problems(path, value, example)
        else:
            yield f"{path} = {escaped_value(value)}: give a block of fields ({', '.join(example)})"
    elif isinstance(example, list | tuple):
        shortest, longest = LENGTHS.get(name, (0, 10_000))
        if not isinstance(value, list | tuple) or not shortest <= len(value) <= longest:
            count = f"{shortest}" if shortest == longest else f"{shortest} or more" if shortest else "any number of"
            yield f"{path} = {escaped_value(value)}: give a list of {count} values"
        else:
            element_example = example[0] if example else ELEMENTS.get(name, "")
            for element in value:
                yield from _field_problems(path, name, element, element_example)
    elif problem := _value_problem(name, value, example):
        yield f"{path} = {escaped_value(value)}: {problem}"


def _value_problem(name: str, value: Any, example: Any) -> str:
    """Returns how to fix an invalid value of a field; "" if the value is valid."""
    if isinstance(example, bool):
        return "" if isinstance(value, bool) else "give True or False"
    if isinstance(example, str):
        if not isinstance(value, str) or not _is_unicode(value):
            return "give a string"
        if name in CHOICES and value not in CHOICES[name]:
            return f"give one of {', '.join(map(repr, CHOICES[name]))}"
        return f"give {SIMPLE_REGEX}" if name in REGEXES and regexes.count_ways(value) > regexes.WAYS else ""
    if not isinstance(example, int | float):
        return ""
    low, high = WEIGHTS if name.endswith("_weight") else BOUNDS.get(name, (-MAX_INTEGER, MAX_INTEGER))
    is_integer = isinstance(example, int)
    has_type = type(value) is int or (not is_integer and isinstance(value, float) and math.isfinite(value))
    if has_type and low <= value <= high:
        return ""
    return f"give {'an integer' if is_integer else 'a number'} from {low} to {high}"


def _is_unicode(text: str) -> bool:
    """Returns whether the text can be encoded as a path. Python represents bytes of paths that are not UTF-8 as surrogates;
    other surrogates cannot be encoded."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape") is not None
    return False


def _task_problems(path: str, name: Any, task: Any, sizes: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields an error message for each invalid field of a task. sizes: the size fields of the system; None: not checked."""
    if len(name) > 100:
        yield f"data.tasks: the task name {escaped_value(name)} is too long; give at most 100 characters"
    elif not isinstance(task, Mapping):
        yield f"{path} = {escaped_value(task)}: give a block of fields"
    else:
        if "reader" not in task:
            yield f"{path}: has no field reader; add the name of a reader"
        for field, value in task.items():
            if field in ("train", "val"):
                if not (value is None or isinstance(value, Mapping)):
                    yield f"{path}.{field} = {escaped_value(value)}: give a block with the fields of the reader"
            elif field not in TASK_FIELDS and sizes is not None and field not in sizes:
                known = ", ".join((*TASK_FIELDS, *sizes, "train", "val"))
                yield f"{path}.{escaped_value(field)}: no such field; known fields: {known}"
            elif problem := _value_problem(field, value, {**(sizes or {}), **TASK_FIELDS}.get(field)):
                yield f"{path}.{field} = {escaped_value(value)}: {problem}"
