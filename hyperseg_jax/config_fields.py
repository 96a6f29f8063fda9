"""What the fields of a config may be: of the kinds that the shipped configs have, and numbers within bounds.

Configs of the command line are checked before any work begins, and those that lie in model folders, which are not trusted,
before anything is built from them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted.printing import shown_value

MOST = 2**31 - 1
BOUNDS: Mapping[str, tuple[float, float]] = {
    # sizes of models
    "image_size": (1, 2**14),
    "patch_size": (1, 1024),
    "window": (1, 64),
    "depths": (1, 256),
    "num_layers": (1, 256),
    "num_levels": (1, 16),
    "num_heads": (1, 1024),
    "head_dim": (1, 4096),
    "num_queries": (1, 4096),
    "vocab_size": (1, 2**22),
    "head_vocab_size": (1, 2**22),
    "group_norm_groups": (1, 4096),
    "mlp_ratio": (1 / 64, 64),
    "feature_layer": (-256, 256),
    "rotary_fraction": (0, 1),
    "rotary_theta": (1e-6, 1e12),
    "epsilon": (0, 1),
    "query_std": (0, 1e6),
    "embedding_std": (0, 1e6),
    "rank": (0, 4096),
    "dropout": (0, 0.999),
    "drop_path": (0, 0.999),
    **dict.fromkeys(("hidden_size", "conv_dim", "mask_dim"), (1, 2**16)),
    **dict.fromkeys(("mlp_size", "feedforward_dim"), (1, 2**18)),
    # sizes of batches
    **dict.fromkeys(("buckets", "length_buckets", "length"), (1, 2**17)),
    **dict.fromkeys(("frames", "prompts"), (1, 2**12)),
    **dict.fromkeys(("targets", "planes", "classes", "regions"), (0, 2**14)),
    # training
    "seed": (0, 2**32 - 1),
    "ratio": (0, 10**6),
    "workers": (0, 1024),
    **dict.fromkeys(("share", "max_unreadable_share"), (0, 1)),
    "horizontal_flip": (0, 1),
    "batch_size": (1, 2**20),
    **dict.fromkeys(("steps", "log_every", "save_every", "eval_every", "eval_examples", "keep"), (1, MOST)),
    **dict.fromkeys(("start", "barrier", "heartbeat", "watchdog"), (1, 10**8)),
    **dict.fromkeys(("data", "fsdp", "tensor", "space"), (0, 2**20)),
    "profile": (0, MOST),
    "accumulate": (1, 2**20),
    "learning_rate": (0, 1e6),
    "warmup_steps": (0, MOST),
    "final_rate": (0, 1e6),
    "betas": (0, 1),
    "clip_norm": (0, 1e30),
    "rate": (0, 1e9),
    "decay": (0, 1e9),
    "average": (0, 1),
    **dict.fromkeys(("train", "val", "clips"), (0, 10**5)),  # of the toy world
    # losses
    "num_points": (1, 2**20),
    "oversample": (1, 1000),
    "importance": (0, 1),
}
"""Least and most of the numbers in the field of that name, whichever block it is in."""
WEIGHTS = (0, 1e9)
"""Of fields whose names end in _weight."""
LENGTHS = {
    "betas": (2, 2),
    "profile": (2, 2),
    "depths": (4, 4),
    "num_heads": (4, 4),
    "buckets": (1, 100),
    "param_groups": (1, 1000),
}
"""Least and most values of lists."""
ELEMENTS: Mapping[str, Any] = {"length_buckets": 0}
"""An element of lists that are empty in the shipped configs, where it is no text."""
REGEXES = ("init_fresh", "pattern")
OPEN = ("data.tasks", "data.augment", "limits")
"""Blocks whose names are the user's own, or that are checked where they are used."""
TASK = {"reader": "", "ratio": 0}
"""Fields of every task; the others are sizes of the system's own."""
OWN = ("model", "loss")
"""Blocks whose fields are the system's own."""
OWN_DATA = ("template", "image_size", "buckets")
"""Fields of `data` that are the system's own."""
NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


def problems(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """A line for each field that is not what it may be, with the fix. known: all fields of the configs of its system; see
    `joined`. Without the system's own blocks, these are not checked."""
    yield from names("", config)
    yield from _in_block("", config, known)
    sizes = known.get("sizes")
    data = config.get("data")
    tasks, augment = (data.get("tasks"), data.get("augment")) if isinstance(data, Mapping) else (None, None)
    for name, block in augment.items() if isinstance(augment, Mapping) else ():
        if not isinstance(block, Mapping):
            yield f"data.augment: {shown_value(name)} is {shown_value(block)}; give a task and a block of fields"
    if isinstance(tasks, Mapping):
        if not tasks:
            yield "data.tasks: names no task; give one or more"
        for name, task in tasks.items():
            yield from _of_task(f"data.tasks.{name}", name, task, sizes)


def joined(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of several configs, and "sizes", those of their tasks; the first that has a field gives its kind."""
    blocks = [task for config in configs for task in config["data"]["tasks"].values()]
    nothing: dict[str, Any] = {}
    kinds = functools.reduce(_joined, blocks, nothing)
    sizes = {name: value for name, value in kinds.items() if name not in (*TASK, "train", "val")}
    return functools.reduce(_joined, configs, nothing) | {"sizes": sizes}


def shared(known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that configs of every system have."""
    data = {name: value for name, value in known["data"].items() if name not in OWN_DATA}
    return {name: value for name, value in known.items() if name not in (*OWN, "sizes")} | {"data": data}


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(one)
    for name, value in other.items():
        there = made.setdefault(name, value)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            made[name] = _joined(there, value)
    return made


def names(path: str, value: Any) -> Iterator[str]:
    """A line for each name that no field can have, in blocks at any depth, those in lists among them."""
    members = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner in members:
        if isinstance(value, Mapping) and not (isinstance(name, str) and NAME.fullmatch(name)):
            yield f"{path or 'config'}: {shown_value(name)} is no name of a field; use letters, digits and _"
        else:
            yield from names(f"{path}.{name}" if path else str(name), inner)


def _in_block(path: str, block: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for name, value in block.items():
        place = f"{path}.{name}" if path else name
        if place in OPEN:
            if not isinstance(value, Mapping):
                yield f"{place} = {shown_value(value)}: give a block of fields"
        elif name in known:
            yield from _of_field(place, name, value, known[name])
        elif path.startswith("model"):
            yield f"{place}: no such field; known here: {', '.join(known)}"


def _of_field(place: str, name: str, value: Any, like: Any) -> Iterator[str]:
    if isinstance(like, Mapping):
        if isinstance(value, Mapping):
            yield from _in_block(place, value, like)
        else:
            yield f"{place} = {shown_value(value)}: give a block of fields ({', '.join(like)})"
    elif isinstance(like, list | tuple):
        least, most = LENGTHS.get(name, (0, 10_000))
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            counted = f"{least}" if least == most else f"{least} or more" if least else "any number of"
            yield f"{place} = {shown_value(value)}: give a list of {counted} values"
        else:
            inner = like[0] if like else ELEMENTS.get(name, "")
            for one in value:
                yield from _of_field(place, name, one, inner)
    elif problem := _of_value(name, value, like):
        yield f"{place} = {shown_value(value)}: {problem}"


def _of_value(name: str, value: Any, like: Any) -> str:
    if isinstance(like, bool):
        return "" if isinstance(value, bool) else "give True or False"
    if isinstance(like, str):
        if not isinstance(value, str) or not _is_unicode(value):
            return "give a text"
        return "give a regular expression" if name in REGEXES and not _is_regex(value) else ""
    if not isinstance(like, int | float):
        return ""
    low, high = WEIGHTS if name.endswith("_weight") else BOUNDS.get(name, (-MOST, MOST))
    whole = isinstance(like, int)
    right = type(value) is int or (not whole and isinstance(value, float) and math.isfinite(value))
    if right and low <= value <= high:
        return ""
    return f"give a {'whole number' if whole else 'number'} from {low} to {high}"


def _is_unicode(text: str) -> bool:
    """Whether it can be a path: half a character can only stand for a byte that is no UTF-8."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape") is not None
    return False


def _is_regex(text: str) -> bool:
    with contextlib.suppress(re.error, RecursionError, OverflowError):
        return len(text) < 1000 and bool(re.compile(text))
    return False


def _of_task(place: str, name: Any, task: Any, sizes: Mapping[str, Any] | None) -> Iterator[str]:
    if len(name) > 100:
        yield f"data.tasks: {shown_value(name)} is too long for the name of a task"
    elif not isinstance(task, Mapping):
        yield f"{place} = {shown_value(task)}: give a block of fields"
    else:
        if "reader" not in task:
            yield f"{place}: lacks reader; give its name"
        for field, value in task.items():
            if field in ("train", "val"):
                if not (value is None or isinstance(value, Mapping)):
                    yield f"{place}.{field} = {shown_value(value)}: give a block with the fields of the reader"
            elif field not in TASK and sizes is not None and field not in sizes:
                yield f"{place}.{shown_value(field)}: no such field; known here: {', '.join({**TASK, **sizes})}, train, val"
            elif problem := _of_value(field, value, {**(sizes or {}), **TASK}.get(field)):
                yield f"{place}.{field} = {shown_value(value)}: {problem}"
