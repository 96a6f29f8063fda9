"""The sizes of the largest arrays that a model computes, by fields of its config, so that a config from other people is checked
before anything is built from it.

Each field is bounded by itself (config_fields.BOUNDS), but memory depends on products of fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

PATCH = 4
"""Cells of the finest level of a pyramid have this many pixels on a side, if the config does not say it."""
SAMPLES = 12
"""Samples of deformable attention for each position: four points on each of three levels."""
WIDTHS = ("hidden_size", "conv_dim", "mask_dim", "mlp_size", "feedforward_dim")
"""Fields with the number of channels of an array."""
LISTS = ("num_heads", "buckets")
"""Fields that may be lists: one value for each stage, or several lengths."""
SIDES = ("short_side", "long_side", "multiple")
"""Fields with sides of images in pixels, of data.resize and of tasks."""
_Size = tuple[float, tuple[str, ...]]
"""How many numbers an array has, and the fields that it depends on."""


def check_model_sizes(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError if a model would compute an array for one image and prompt that exceeds the limit `array`. where: the
    config file."""
    allowed = limits.current().array
    for numbers, fields in _array_sizes(config):
        if numbers > allowed:
            raise UserError(
                f"{where}: {', '.join(fields)}: together they need an array of {int(numbers)} numbers for each image, and the "
                f"limit is {allowed}; if that is intended, raise limits.array"
            )


def _array_sizes(config: Mapping[str, Any]) -> Iterator[_Size]:
    """Yields the sizes of the largest arrays of each part of a model. The fields of a part tell what it computes."""
    model, data = (_keep_numbers(block if isinstance(block, Mapping) else {}) for block in (config["model"], config["data"]))
    parts = {f"model.{name}": block for name, block in model.items() if isinstance(block, Mapping)}
    blocks = [block for block in (data.get("resize"), *data["tasks"].values()) if isinstance(block, Mapping)]
    resized = max((block.get(field, 1) for block in blocks for field in SIDES), default=1)
    side, name = max((data.get("image_size", 1), "data.image_size"), (resized, "sides of data.resize and data.tasks"))
    patch = min((block["patch_size"] for block in parts.values() if {"window", "patch_size"} <= block.keys()), default=PATCH)
    finest, coarser = math.ceil(side / patch) ** 2, math.ceil(side / patch / 2) ** 2
    for at, block in parts.items():
        heads = block.get("num_heads", 1)
        if "window" in block:
            yield from _window_sizes(at, block, side, patch)
        elif "image_size" in block and "patch_size" in block:  # an encoder that attends to all patches
            fields = (f"{at}.image_size", f"{at}.patch_size")
            tokens = math.ceil(block["image_size"] / block["patch_size"]) ** 2
            yield tokens**2 * _most(heads), (*fields, f"{at}.num_heads")
            yield from _wide(at, block, tokens, fields)
        elif "vocab_size" in block:  # a language model
            length = max([*data.get("buckets", ()), *(task.get("length", 1) for task in data["tasks"].values()), 1])
            fields = ("data.buckets", "data.tasks")
            yield length**2 * _most(heads), (*fields, f"{at}.num_heads")
            yield from _wide(at, block, length, fields)
        elif "conv_dim" in block:  # deformable attention to a pyramid
            yield from _wide(at, block, finest, (name,))
            yield coarser * SAMPLES * block["conv_dim"], (name, f"{at}.conv_dim")
            yield coarser * SAMPLES * _most(heads), (name, f"{at}.num_heads")
        elif "mask_dim" in block:  # a decoder of masks
            queries = max(block.get("num_queries", 1), model.get("num_queries", 1))
            fields = ("model.num_queries", f"{at}.num_queries")
            yield queries * finest, (*fields, name)
            yield queries * max(coarser, queries) * _most(heads), (*fields, name, f"{at}.num_heads")
            yield from _wide(at, block, max(queries, coarser), (*fields, name))
        else:  # attention of a few queries to a pyramid
            own, fields = block.get("num_queries", 1), (f"{at}.num_queries", name)
            yield own * (coarser + own) * _most(heads), (*fields, f"{at}.num_heads")
            width = max(
                block.get("head_dim", 1) * _most(heads), block.get("hidden_size", 1) * max(1, block.get("mlp_ratio", 1))
            )
            yield (coarser + own) * width, (*fields, f"{at}.head_dim", f"{at}.num_heads", f"{at}.hidden_size")


def _window_sizes(at: str, block: Mapping[str, Any], side: int, patch: int) -> Iterator[_Size]:
    """Yields the sizes of an encoder with attention inside windows, by stage."""
    window, heads = block["window"], block.get("num_heads", 1)
    for stage in range(len(heads) if isinstance(heads, Sequence) else 1):
        padded = math.ceil(math.ceil(side / patch / 2**stage) / window) * window
        in_stage = heads[stage] if isinstance(heads, Sequence) else heads
        yield padded**2 * window**2 * in_stage, (f"{at}.window", f"{at}.num_heads", "data.image_size")
        width = block.get("hidden_size", 1) * 2**stage * max(1, block.get("mlp_ratio", 1))
        yield padded**2 * width, (f"{at}.hidden_size", f"{at}.mlp_ratio", "data.image_size")


def _wide(at: str, block: Mapping[str, Any], positions: int, fields: Sequence[str]) -> Iterator[_Size]:
    """Yields the sizes of the arrays with channels at each position."""
    for width in WIDTHS:
        if width in block:
            yield positions * block[width], (f"{at}.{width}", *fields)


def _keep_numbers(block: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a block that are numbers above zero, or LISTS of such numbers, in nested blocks as well. The fields
    of systems of other packages may be anything."""
    is_number = lambda value: type(value) in (int, float) and 0 < value < math.inf
    kept: dict[str, Any] = {}
    for name, value in block.items():
        if isinstance(value, Mapping):
            kept[name] = _keep_numbers(value)
        elif is_number(value):
            kept[name] = [value] if name == "buckets" else value
        elif name in LISTS and isinstance(value, list | tuple) and value and all(map(is_number, value)):
            kept[name] = value
    return kept


def _most(heads: int | Sequence[int]) -> int:
    return max(heads) if isinstance(heads, Sequence) else heads
