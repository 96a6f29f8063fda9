"""How much a file may ask for. A run has one set of limits; its worker processes are given the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import shown_value


@dataclasses.dataclass(frozen=True)
class Limits:
    """The fields of a config's `limits` block, and the names that `--limits NAME=VALUE` takes.

    pixels: of one image, mask or video frame. masks: of one record, each frame's counted. mask_pixels: of all masks of one
    record together, a byte each. frame_pixels: of all frames of one record together, three bytes each. frames: of one video.
    records: of one data set. json_bytes: of one annotation file. depth: how deep JSON may nest. seconds: of reading one record,
    checked between its images. letters: of one text. side: of the square of pixels that a model folder's config may ask for.
    tokens: of a sequence there. outside: whether paths and links in data may leave the data set's folder.
    """

    pixels: int = 2**26
    masks: int = 50_000
    mask_pixels: int = 2**32
    frame_pixels: int = 2**31
    frames: int = 200_000
    records: int = 2**31
    json_bytes: int = 2**33
    depth: int = 100
    seconds: float = 300.0
    letters: int = 2**15
    side: int = 2048
    tokens: int = 4096
    outside: bool = False


def block() -> dict[str, Any]:
    """All fields and their defaults, for configs."""
    return dataclasses.asdict(Limits())


_in_force = Limits()


def in_force() -> Limits:
    """The limits of this process."""
    return _in_force


def apply(limits: Limits) -> None:
    """Puts limits in force for this process."""
    global _in_force
    _in_force = limits


def apply_block(fields: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> None:
    """Puts the limits of a config's `limits` block in force, and before them those that were given on the command line."""
    apply(of({**fields, **(given or {})}, "limits"))


@contextlib.contextmanager
def applied(**fields: Any) -> Iterator[Limits]:
    """Other limits for a while."""
    before = _in_force
    apply(dataclasses.replace(before, **fields))
    try:
        yield _in_force
    finally:
        apply(before)


@contextlib.contextmanager
def applied_block(fields: Mapping[str, Any]) -> Iterator[None]:
    """The limits of a config's `limits` block, for a while."""
    with applied(**dataclasses.asdict(of(fields, "limits"))):
        yield


def of(fields: Mapping[str, Any], where: str) -> Limits:
    """Limits with these fields. where: what gives them, for messages ("limits", "--limits"). UserError for an unknown name or a
    value that is none."""
    defaults, made = block(), {}
    for name, value in fields.items():
        if name not in defaults:
            raise UserError(f"{where}: no limit is called {name!r}; there are {', '.join(defaults)}")
        kind = type(defaults[name])
        if type(value) is int and kind is float and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is not bool and not 0 < value < float("inf")):
            wanted = "True or False" if kind is bool else "a whole number above 0" if kind is int else "a number above 0"
            raise UserError(f"{where}: {name} is {shown_value(value)}; give {wanted}")
        made[name] = value
    return Limits(**made)


def check(name: str, found: float, where: str, what: str) -> None:
    """UserError where `found` is more than the limit of that name. where: the file or record; what: counts in the message, as
    "pixels"."""
    allowed = getattr(_in_force, name)
    if found > allowed:
        raise UserError(f"{where}: has {found} {what}, and the limit is {allowed}; if that is right, raise limits.{name}")
