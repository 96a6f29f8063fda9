"""Resource limits of input files. A process has one set of limits; its worker processes get the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped_value


@dataclasses.dataclass(frozen=True)
class Limits:
    """The fields of the `limits` block of a config, and the names accepted by `--limits NAME=VALUE`.

    pixels: of one image, mask or video frame. masks: of one record, counted per frame. mask_pixels: of all masks of one record,
    or of the classes in a predicted image, at one byte each. frame_pixels: of all frames of one record, at three bytes each.
    frames: of one video. records: of one dataset. record_bytes: of one record of a build or prepared dataset, unpacked. values:
    numbers, texts and lists of one record of a build. json_bytes: of one annotation file. depth: nesting depth of JSON.
    seconds: reading time of one record, checked between its images. letters: characters of one text. side: image size in the
    config of a model folder. tokens: sequence length in the config of a model folder. array: the largest array for one image
    that a model folder describes, in numbers of four bytes. tasks: of the config of a model folder. outside: whether paths and
    links in data may leave the dataset's folder.
    """

    pixels: int = 2**26
    masks: int = 50_000
    mask_pixels: int = 2**32
    frame_pixels: int = 2**31
    frames: int = 200_000
    records: int = 2**31
    record_bytes: int = 2**28
    values: int = 2**20
    json_bytes: int = 2**33
    depth: int = 100
    seconds: float = 300.0
    letters: int = 2**15
    side: int = 2048
    tokens: int = 4096
    array: int = 2**29
    tasks: int = 100
    outside: bool = False


def default_block() -> dict[str, Any]:
    """Returns all limits with their default values, for the `limits` block of a config."""
    return dataclasses.asdict(Limits())


_current = Limits()


def current() -> Limits:
    """Returns the limits that apply in this process."""
    return _current


def set_limits(limits: Limits) -> None:
    """Sets the limits of this process."""
    global _current
    _current = limits


def set_block(fields: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> None:
    """Sets the limits of this process from the `limits` block of a config and overrides of the command line."""
    set_limits(from_fields({**fields, **(overrides or {})}, "limits"))


@contextlib.contextmanager
def temporary_limits(**fields: Any) -> Iterator[Limits]:
    """Inside this context, these limits have other values in this process."""
    before = _current
    set_limits(dataclasses.replace(before, **fields))
    try:
        yield _current
    finally:
        set_limits(before)


@contextlib.contextmanager
def temporary_block(fields: Mapping[str, Any]) -> Iterator[None]:
    """Inside this context, the limits of this process are those of the `limits` block of a config."""
    with temporary_limits(**dataclasses.asdict(from_fields(fields, "limits"))):
        yield


LARGEST = 2**63 - 1
"""Of all limits."""


def from_fields(fields: Mapping[str, Any], where: str) -> Limits:
    """Builds limits from these fields and defaults. where: prefix of messages ("limits", "--limits"). Raises UserError for
    unknown names and invalid values."""
    defaults, checked = default_block(), {}
    for name, value in fields.items():
        if name not in defaults:
            raise UserError(f"{where}: there is no limit {name!r}; limits are {', '.join(defaults)}")
        kind = type(defaults[name])
        if type(value) is int and kind is float and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is not bool and not 0 < value < float("inf")):
            expected = "True or False" if kind is bool else "an integer above 0" if kind is int else "a number above 0"
            raise UserError(f"{where}: {name} is {escaped_value(value)}; give {expected}")
        if value > LARGEST:
            raise UserError(f"{where}: {name} is {escaped_value(value)}; give at most {LARGEST}")
        checked[name] = value
    return Limits(**checked)


def check_limit(name: str, value: float, where: str, what: str) -> None:
    """Raises UserError if `value` exceeds the limit `name`. where: the file or record. what: the unit, such as "pixels". All
    are named in the message."""
    limit = getattr(_current, name)
    if value > limit:
        raise UserError(f"{where}: has {value} {what}, and the limit is {limit}; if that is intended, raise limits.{name}")
