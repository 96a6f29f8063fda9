"""Encodes an Example as one msgpack record of numbers, texts and bytes, and decodes it. Decoding executes no code.

    {name, frame_names, size: [H, W], frames: [an image file per frame], planes: [COCO run-length encodings],
     prompts: [{field: value}]}

A mask array [..., H, W] is stored as {shape: [...], planes: [numbers]}: identical planes are stored once, and only the planes
of sampled frames are decoded. A region is {kind, points, boxes, scribbles, mask} with coordinates as little-endian float64
bytes. Fields with their default value are omitted. Older records store the regions of a prompt as one mask array [R, H, W] and
their kinds as a separate field; both formats are read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.prompt_masks import map_masks
from hyperseg_jax.datasets.record_errors import describe_error
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget, images, limits, msgpack_parts
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped_value

IMAGES = ("JPEG", "PNG")
FIELDS = {field.name: field.default for field in dataclasses.fields(Prompt) if field.name != "task"}
PER_FRAME_MASKS = {"masks": 2, "ignore": 1, "crowds": 2, "foreground": 1, "others": 2}
"""Mask arrays with a frame axis, which is the last axis before height and width -> number of axes before height and width."""
MATCHING_LENGTHS = {
    "panoptic": {"things": "classes", "labels": "masks", "crowd_labels": "crowds"},
    "region": {"labels": "masks"},
    "caption": {"captions": "regions"},
}
"""For each task, fields -> the field whose length they must have."""
CORRUPT_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError)
_FORM = {"unicode_errors": "surrogatepass"}  # json files may contain lone surrogates


def encode_example(example: Example, images: Sequence[bytes]) -> bytes:
    """Encodes an example. images: its frames as JPEG or PNG files. Raises UserError if masks and frames differ in size or if
    regions are drawn on another image."""
    if example.drawn_on is not None:
        why = "its regions are drawn on another image, which builds do not support; read the dataset from its original files"
        raise Problem("bad record", f"{example.name}: {why}")
    size = example.frames.shape[1:3]
    planes: dict[bytes, int] = {}

    def encode_value(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.shape[-2:] != size:
                raise Problem("wrong size", f"{example.name}: a mask is {value.shape[-2:]}, its image {size} (height, width)")
            stack = value.reshape(-1, *size)
            runs = [coco_mask.encode(np.asfortranarray(plane, dtype=np.uint8))["counts"] for plane in stack]
            return {"shape": list(value.shape[:-2]), "planes": [planes.setdefault(run, len(planes)) for run in runs]}
        if isinstance(value, Region):
            return {"kind": value.kind, "mask": encode_value(value.mask), "radius": value.radius} | {
                "points": _pack_numbers(value.points),
                "boxes": _pack_numbers(value.boxes),
                "scribbles": [_pack_numbers(line) for line in value.scribbles],
            }
        if isinstance(value, tuple | list):
            return [encode_value(item) for item in value]
        return value.item() if isinstance(value, np.generic) else value

    prompts = [
        {"task": prompt.task}
        | {name: encode_value(getattr(prompt, name)) for name in FIELDS if _differs_from_default(getattr(prompt, name), name)}
        for prompt in example.prompts
    ]
    content = {
        "name": example.name,
        "frame_names": list(example.frame_names),
        "size": list(size),
        "frames": list(images),
        "planes": list(planes),
        "prompts": prompts,
    }
    data = msgpack.packb(content, **_FORM)
    limits.check_limit("record_bytes", len(data), example.name, "bytes")
    try:
        msgpack_parts.check_msgpack(data)
    except BadFile as error:
        raise Problem("bad record", f"{example.name}: {error}") from error
    return data


def _differs_from_default(value: Any, name: str) -> bool:
    """Returns whether a field of a prompt has to be stored."""
    return isinstance(value, np.ndarray) or value != FIELDS[name]


class CorruptRecord(ValueError):
    """The bytes of a record are invalid; the message says why."""


class Record:
    """A record whose images and masks are not decoded yet.

    name, frame_names: of the Example. size: (height, width). prompts: of the Example, with plane numbers int [...] instead of
    masks [..., H, W], also in regions. Raises a Problem (UserError) if the bytes are not a valid record.
    """

    def __init__(self, data: bytes, where: str):
        """where: shard and record number, for messages."""
        self._where = where
        try:
            content = _unpack_record(data)
            self.name, self.frame_names = _check_string(content["name"]), tuple(map(_check_string, content["frame_names"]))
            self.size = fields.declared_image_size(dict(zip(("height", "width"), content["size"], strict=True)), where)
            self._images = [_check_bytes(image) for image in content["frames"]]
            self._planes = [_check_bytes(plane) for plane in content["planes"]]
            self.prompts = tuple(self._parse_prompt(fields) for fields in content["prompts"])
            if self.frame_names and len(self.frame_names) != len(self._images):
                raise CorruptRecord(f"it has {len(self.frame_names)} names for {len(self._images)} frames")
        except Problem:
            raise
        except BadFile as error:
            raise Problem("bad record", f"{where}: {error}") from error
        except CORRUPT_ERRORS as error:
            raise self._damage_problem(error) from error
        if not self._images:
            raise Problem("bad record", f"{where}: has no frames; build this shard again")
        empty = coco_mask.encode(np.zeros(self.size, np.uint8, order="F"))["counts"]
        self._empty = np.array([plane == empty for plane in self._planes], bool)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._images)

    def is_nonempty(self, planes: np.ndarray) -> np.ndarray:
        """Returns for each plane number whether its mask has any pixel, bool in the shape of `planes`."""
        return ~np.asarray(self._empty[planes])

    def example(self, times: Sequence[int] | None = None, prompts: Sequence[Prompt] | None = None) -> Example:
        """Decodes the Example. times: indices of the frames to decode; prompts: the matching prompts. Default: all."""
        times = range(len(self)) if times is None else times
        prompts = self.prompts if prompts is None else prompts
        frames = np.stack([self._decode_frame(t) for t in times]) if len(times) > 1 else self._decode_frame(times[0])[None]
        decoded = tuple(self._decode_masks(prompt) for prompt in prompts)
        return Example(self.name, frames, decoded, tuple(self.frame_names[t] for t in times) if self.frame_names else ())

    def _parse_prompt(self, fields: dict[str, Any]) -> Prompt:
        """Builds a prompt from its stored fields, with plane numbers instead of masks."""
        regions = self._parse_regions(fields.pop("regions", []), fields.pop("kinds", []))
        for name in fields:
            if name != "task" and name not in FIELDS:
                raise Problem("bad record", f"{self._where}: field {name!r} is from a newer version; update hyperseg-jax")
        prompt = Prompt(**{name: self._parse_value(value) for name, value in fields.items()}, regions=regions)
        if odd := [name for name in fields if name not in PER_FRAME_MASKS and isinstance(getattr(prompt, name), np.ndarray)]:
            raise CorruptRecord(f"field {odd[0]!r} contains masks")
        for name, axes in PER_FRAME_MASKS.items():
            numbers = getattr(prompt, name)
            if numbers is None:
                continue
            if not isinstance(numbers, np.ndarray) or numbers.ndim != axes or numbers.shape[-1] != len(self):
                raise CorruptRecord(f"field {name!r} does not contain masks of its {len(self)} frames")
        for name, other in MATCHING_LENGTHS.get(prompt.task, {}).items():
            values, expected = getattr(prompt, name), getattr(prompt, other)
            if expected is not None and len(values) != len(expected):
                raise CorruptRecord(f"it has {len(values)} {name} for {len(expected)} {other}")
        if not all(type(texts) is tuple and all(type(text) is str for text in texts) for texts in prompt.captions):
            raise CorruptRecord("captions are not lists of texts")
        if not all(type(area) in (int, float) and math.isfinite(area) for area in prompt.areas):
            raise CorruptRecord("areas are not finite numbers")
        return prompt

    def _parse_regions(self, value: Any, kinds: Any) -> tuple[Region, ...]:
        """Builds the regions of a prompt. kinds: the separate field of records of older versions, which store the regions as
        one mask array."""
        if isinstance(value, list):
            if kinds:
                raise CorruptRecord("it has kinds but no masks of regions")
            self._check_region_count(len(value))
            return tuple(self._parse_region(**fields) for fields in value)
        numbers = self._parse_value(value)
        if not isinstance(numbers, np.ndarray) or numbers.ndim != 1:
            raise CorruptRecord("regions are not masks of one frame")
        self._check_region_count(len(numbers))
        return tuple(Region(kind, mask=numbers[n, ...]) for n, kind in zip(range(len(numbers)), kinds, strict=True))

    def _check_region_count(self, regions: int) -> None:
        try:
            limits.check_limit("masks", regions, self._where, "regions")
        except UserError as error:
            raise Problem("bad record", str(error)) from error

    def _parse_region(self, kind: Any, points: Any, boxes: Any, scribbles: Any, mask: Any, radius: Any = 0) -> Region:
        plane = None if mask is None else self._parse_value(mask)
        if plane is not None and (not isinstance(plane, np.ndarray) or plane.ndim):
            raise CorruptRecord("the mask of a region is not a single mask")
        lines = tuple(_unpack_rows(line, 2) for line in scribbles)
        return Region(kind, _unpack_rows(points, 3), _unpack_rows(boxes, 4), lines, plane, radius)

    def _parse_value(self, value: Any) -> Any:
        """Converts stored plane numbers to an int array, and lists to tuples; returns other values unchanged."""
        if isinstance(value, list):
            return tuple(self._parse_value(item) for item in value)
        if not isinstance(value, dict):
            return value
        if any(type(number) is not int for number in value["planes"]):
            raise CorruptRecord("planes of a mask are not numbers")
        numbers = np.array(value["planes"], np.int64).reshape(value["shape"])
        most = max(numbers.shape, default=0)  # not the product: an empty array may have any number of rows
        limits.check_limit("masks", most, self._where, "masks")
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self._planes)):
            raise CorruptRecord("a plane of a mask is missing")
        return numbers

    def _decode_masks(self, prompt: Prompt) -> Prompt:
        """Returns the prompt with masks instead of plane numbers."""
        without_mask = sum(region.mask is None for region in prompt.regions)
        budget.charge_masks(without_mask, self.size, self._where)  # a model may rasterize each of them
        regions = (
            region if region.mask is None else dataclasses.replace(region, mask=self._decode_planes(region.mask))
            for region in prompt.regions
        )
        return map_masks(prompt, lambda _, numbers: self._decode_planes(numbers), regions=tuple(regions))

    def _decode_planes(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the masks with these plane numbers [...], bool [..., H, W]."""
        budget.charge_masks(numbers.size, self.size, self._where)
        masks = np.empty((numbers.size, *self.size), bool)
        for plane, number in zip(masks, numbers.reshape(-1), strict=True):
            budget.check_time(self._where)
            try:
                plane[:] = run_lengths.decode(self._planes[number], *self.size)
            except (ValueError, OverflowError) as error:
                report_problem("bad mask", f"{self._where}: a mask is damaged ({error}); build this shard again")
                plane[:] = False
        return masks.reshape(*numbers.shape, *self.size)

    def _decode_frame(self, t: int) -> np.ndarray:
        budget.charge_frame(self.size, self._where)
        try:
            frame = images.read_rgb(self._images[t], IMAGES)
        except BadFile as error:
            why = f"frame {t} {error.why}"
            raise Problem("unreadable image", f"{self._where}: {why}; build this shard again") from error
        if frame.shape[:2] != self.size:
            raise Problem("unreadable image", f"{self._where}: frame {t} has another size; build this shard again")
        return frame

    def _damage_problem(self, error: Exception) -> Problem:
        """Returns a Problem that says that this record is damaged, and why."""
        why = str(error) if isinstance(error, CorruptRecord | UserError) else describe_error(error)
        return Problem("bad record", f"{self._where}: is damaged ({why}); build this shard again")


def _unpack_record(data: bytes) -> Any:
    try:
        msgpack_parts.check_msgpack(data)
        return msgpack.unpackb(data, strict_map_key=True, **_FORM)
    except (ValueError, TypeError, RecursionError) as error:  # the base classes of msgpack's errors
        raise CorruptRecord("its bytes are not a complete record") from error


def _pack_numbers(numbers: np.ndarray) -> bytes:
    """Returns the numbers as bytes: little-endian float64."""
    return np.asarray(numbers, "<f8").tobytes()


def _unpack_rows(data: Any, columns: int) -> np.ndarray:
    return np.frombuffer(_check_bytes(data), "<f8").reshape(-1, columns)


def _check_string(value: Any) -> str:
    if not isinstance(value, str):
        raise CorruptRecord(f"{escaped_value(value)} is not a string")
    return value


def _check_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise CorruptRecord(f"{escaped_value(value)} is not a byte string")
    return value
