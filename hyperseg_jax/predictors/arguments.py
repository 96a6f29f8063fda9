"""Checks the arguments of the Python API. Every function raises a UserError that names the argument and what to give."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.datasets.regions import has_positive_mark
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.untrusted.json_text import is_text
from hyperseg_jax.untrusted.printing import escaped_value


def describe(value: Any) -> str:
    """Returns a short text about a wrong value: what it is."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return str(escaped_value(value))
    return f"a {type(value).__name__}"


def check_string(argument: str, value: Any) -> str:
    """Returns a text, which may be empty."""
    if isinstance(value, bytes):
        raise UserError(f"{argument} = {describe(value)}: is bytes; give a text, as in value.decode()")
    if not isinstance(value, str):
        raise UserError(f"{argument} is {describe(value)}; give a text")
    if not is_text(value):
        raise UserError(f"{argument} = {describe(value)}: has half of a character (a lone surrogate); give a text")
    return str(value)


def check_text(text: Any, argument: str = "text") -> str:
    """Returns the stripped text of a prompt, which must not be empty."""
    text = check_string(argument, text)
    if not text.strip(" .\t\n"):
        raise UserError("the prompt is empty; say what to segment")
    return str(text.strip())


def check_names(argument: str, names: Any, *, unique: bool = True) -> tuple[str, ...]:
    """Returns the stripped names of classes. unique: whether each may be there once only."""
    if isinstance(names, str | bytes):
        example = names if isinstance(names, str) else names.decode(errors="replace")
        raise UserError(f"{argument} = {describe(names)}: is one text; give a list of names, as in {argument}=[{example!r}]")
    checked = tuple(check_text(name, f"{argument}[{k}]") for k, name in enumerate(_as_list(argument, names, "names")))
    if unique:
        check_unique(argument, checked)
    return checked


def check_unique(argument: str, names: Sequence[str]) -> None:
    """Checks that no name is there twice: two equal classes share the probability of one."""
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), None):
        raise UserError(f"{argument} has {escaped_value(twice)} twice; give each name once")


def class_prompt(classes: Any, stuff: Any = ()) -> Prompt:
    """Returns a prompt of thing and stuff classes, at least one."""
    things, rest = check_names("classes", classes), check_names("stuff", stuff)
    if not things + rest:
        raise UserError("no classes are given; name at least one")
    if both := [name for name in rest if name in things]:
        raise UserError(f"{escaped_value(both[0])} is in classes and in stuff; give it once")
    return Prompt(task="panoptic", classes=things + rest, things=(True,) * len(things) + (False,) * len(rest))


def check_regions(regions: Any) -> tuple[Region, ...]:
    """Returns the regions of a list of Regions or masks."""
    if isinstance(regions, Region):
        raise UserError("regions is one Region; give a list, as in regions=[region]")
    if isinstance(regions, np.ndarray) and regions.ndim == 2:
        raise UserError(f"regions is {describe(regions)}, one mask; give a list, as in regions=[mask]")
    return tuple(check_region(region, k) for k, region in enumerate(_as_list("regions", regions, "Regions or masks")))


def check_region(region: Any, index: int = 0) -> Region:
    """Returns a region, or that of a mask."""
    if isinstance(region, Region):
        return region
    if not isinstance(region, np.ndarray) or region.ndim != 2:
        raise UserError(f"region {index + 1} is {describe(region)}; give a Region, or a bool mask [height, width]")
    return Region.from_mask(region)


def region_prompt(task: str, frame: np.ndarray, regions: Any) -> Prompt:
    """Returns a prompt of regions, at least one; masks have the size of the image. The processor checks points, boxes and
    scribbles."""
    converted = check_regions(regions)
    for k, region in enumerate(converted):
        if region.mask is None:
            continue
        if region.mask.dtype != bool:
            raise UserError(f"region {k + 1} has a mask of {region.mask.dtype}; give a bool mask, or use Region.from_mask")
        size = region.mask.shape
        if size != frame.shape[:2]:
            raise UserError(f"region {k + 1} has size {size}, but the image has {frame.shape[:2]}; use the size of the image")
        if not has_positive_mark(region):
            raise UserError(f"region {k + 1} is empty; draw it inside the image")
    if not converted:
        raise UserError("no regions are given; draw at least one region")
    return Prompt(task=task, regions=converted)


def region_names(count: int, labels: Any) -> tuple[str, ...]:
    """Returns a name for each region: its label, by default its number."""
    if isinstance(labels, str | bytes):
        raise UserError(f"labels = {describe(labels)}: is one text; give a list with a label for each region")
    names = tuple(check_string(f"labels[{k}]", label) for k, label in enumerate(_as_list("labels", labels, "texts")))
    if names and len(names) != count:
        raise UserError(f"{len(names)} labels for {count} regions; pass one label for each region")
    return names or tuple(f"region {k + 1}" for k in range(count))


def check_flag(argument: str, value: Any) -> bool:
    """Returns a bool."""
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{argument} is {describe(value)}; give True or False")
    return bool(value)


def check_threshold(argument: str, value: Any) -> Any:
    """Returns a probability; None and ... stay."""
    if value is None or isinstance(value, types.EllipsisType):
        return value
    if not _is_number(value) or not 0 <= value <= 1:
        raise UserError(f"{argument} is {describe(value)}; give a number from 0 to 1")
    return float(value)


def check_numbers(argument: str, values: Sequence[Any]) -> list[float]:
    """Returns finite numbers."""
    if wrong := [value for value in values if not _is_number(value)]:
        raise UserError(f"{argument} has {describe(wrong[0])}; give numbers in pixels")
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def check_seed(seed: Any) -> int:
    """Returns the seed of sampling."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise UserError(f"seed = {describe(seed)}: must be in 0 to {2**32 - 1}")
    return int(seed)


def check_frames(frames: Any) -> Any:
    """Returns the frames of a video, or the path to them."""
    if isinstance(frames, str | os.PathLike):
        return frames
    is_one = isinstance(frames, Image.Image) or (isinstance(frames, np.ndarray) and frames.ndim != 4)
    if is_one or isinstance(frames, bytes | Mapping) or not isinstance(frames, Iterable):
        raise UserError(
            f"frames is {describe(frames)}; give images of one size, or the path of a video or of a folder of frames"
        )
    return frames


def check_object_ids(masks: Any) -> dict[int, np.ndarray]:
    """Returns {frame number: object ids [H, W]} of the argument `masks` of Model.segment_objects."""
    given = dict(masks) if isinstance(masks, Mapping) else {0: masks}
    for number, ids in given.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
            raise UserError(f"masks has the key {describe(number)}; give numbers of frames, from 0")
        if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iub":
            raise UserError(
                f"the masks of frame {number} are {describe(ids)}; give the object id of each pixel, integers [height, width]"
            )
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise UserError(
                f"the masks of frame {number} have the id {ids.max() if ids.max() > 255 else ids.min()}; give ids from 1 to 254"
            )
    return {int(number): ids for number, ids in given.items()}


def _as_list(argument: str, values: Any, what: str) -> list[Any]:
    """Returns the elements of a list, tuple or array; other collections have no order, or would be read as another thing."""
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Sequence | np.ndarray):
        raise UserError(f"{argument} is {describe(values)}; give a list of {what}")
    if isinstance(values, np.ndarray) and not values.ndim:
        raise UserError(f"{argument} is {describe(values)}; give a list of {what}")
    return list(values)
