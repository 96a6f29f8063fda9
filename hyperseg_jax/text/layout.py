"""Prompts as fixed-length arrays (host side): what llms/splice.py needs to build the token stream in one gather."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Layout, Source


class Marker(enum.IntEnum):
    """What stands in an id sequence where something other than text comes; the values of PSALM and its descendants."""

    IMAGE = -200
    SEG = -201  # the mask queries
    CLS = -202  # the next class name
    REGION = -203  # the next region
    REFER = -204  # the expression
    TEMPORAL = -205  # the fine-grained tokens


@dataclasses.dataclass(frozen=True)
class PromptTokens:
    """A prompt as ids with markers.

    ids: token ids and Markers. labels: ids where they are to be written, IGNORED elsewhere. mask: for each id, whether others
    may look at it. expression: ids placed at REFER. classes: ids placed at each CLS, in order. num_regions: how many REGION.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    mask: tuple[bool, ...]
    expression: tuple[int, ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    num_regions: int = 0


class TokenCounts(NamedTuple):
    """How many positions the picture, its fine-grained tokens and the mask queries take."""

    image: int
    fine_grained: int
    queries: int


def expanded_length(tokens: PromptTokens, counts: TokenCounts) -> int:
    """Positions that the prompt takes once its markers are expanded."""
    return sum(len(ids) for ids, *_ in _runs(tokens, counts))


LENGTH_STEP = 64
"""Positions: what prompts longer than every bucket are rounded up to; a program is compiled for each length."""


def choose_bucket(needed: int, buckets: Iterable[int]) -> int:
    """The smallest bucket that holds `needed` positions; beyond the longest, the next multiple of LENGTH_STEP."""
    longer = -(-needed // LENGTH_STEP) * LENGTH_STEP
    return min((bucket for bucket in buckets if needed <= bucket), default=longer)


def expand(tokens: PromptTokens, counts: TokenCounts, length: int) -> Layout:
    """Ids with markers -> arrays of `length`. Raises UserError naming the needed and the given length."""
    runs = list(_runs(tokens, counts))
    needed = sum(len(ids) for ids, *_ in runs)
    if needed > length:
        raise UserError(
            f"a prompt needs {needed} positions, the layout has {length}: "
            "add a longer bucket to the config field `buckets`, or shorten the text"
        )
    made = {name: np.zeros(length, np.int32) for name in ("text_ids", "source", "index", "segment")}
    labels, mask = np.full(length, IGNORED, np.int32), np.zeros(length, bool)
    at, seen = 0, dict.fromkeys(Source, 0)
    for ids, source, segment, label, visible in runs:
        here = slice(at, at + len(ids))
        made["text_ids"][here] = ids
        made["source"][here] = source
        made["index"][here] = seen[source] + np.arange(len(ids))
        made["segment"][here] = segment
        labels[here], mask[here] = label, visible
        at, seen[source] = at + len(ids), seen[source] + len(ids)
    place = np.arange(length, dtype=np.int32)
    return Layout(**made, labels=labels, mask=mask, prompt=(place < needed).astype(np.int32), position=place)


def pack(layouts: Sequence[Layout], length: int) -> Layout:
    """The prompts of one picture as one sequence of `length`: their common beginning once, then each one's own part.

    layouts: of `expand`, each of any length. Raises UserError naming the needed and the given length.
    """
    common, sizes = _shared(layouts)
    needed = packed_length(layouts)
    if needed > length:
        raise UserError(
            f"{len(layouts)} prompts of one picture need {needed} positions, the layout has {length}: "
            "raise the task's `length`, or ask for fewer `prompts`"
        )
    parts = [(0, layouts[0], 0, common)] + [
        (k, layout, common, size) for k, (layout, size) in enumerate(zip(layouts, sizes, strict=True), 1)
    ]
    made = {}
    for field in dataclasses.fields(Layout):
        pieces = [
            np.full(stop - start, number) if field.name == "prompt" else getattr(layout, field.name)[start:stop]
            for number, layout, start, stop in parts
        ]
        value = np.full(length, IGNORED if field.name == "labels" else 0, getattr(layouts[0], field.name).dtype)
        value[:needed] = np.concatenate(pieces)
        made[field.name] = value
    return Layout(**made)


def packed_length(layouts: Sequence[Layout]) -> int:
    """Positions that `pack` needs."""
    common, sizes = _shared(layouts)
    return common + sum(size - common for size in sizes)


def _shared(layouts: Sequence[Layout]) -> tuple[int, list[int]]:
    """The length of their common beginning, and of each whole."""
    sizes = [int((layout.source != Source.PADDING).sum()) for layout in layouts]
    return _common_length(layouts, min(sizes)) if len(layouts) > 1 else 0, sizes


def _common_length(layouts: Sequence[Layout], limit: int) -> int:
    """Positions from the start in which all agree, before anything that is pooled, asked for or written.

    What is written is written from the position before it, so that one is each prompt's own as well.
    """
    first = layouts[0]
    differs = np.isin(first.source, (Source.EXPRESSION, Source.CLASS, Source.REGION, Source.QUERY))[:limit]
    for other in layouts:
        written = other.labels != IGNORED
        differs |= (written | np.append(written[1:], False))[:limit]
        for name in ("text_ids", "source", "index", "mask"):
            differs |= getattr(first, name)[:limit] != getattr(other, name)[:limit]
    return int(differs.argmax()) if differs.any() else limit


Run = tuple[Sequence[int], Source, int, int, bool]  # text ids, source, segment, label, visible


def _runs(tokens: PromptTokens, counts: TokenCounts) -> Iterable[Run]:
    """What each id becomes."""
    named = {marker: tokens.ids.count(marker) for marker in Marker}
    if named[Marker.CLS] != len(tokens.classes) or named[Marker.REGION] != tokens.num_regions:
        raise ValueError(
            f"the ids mark {named[Marker.CLS]} classes and {named[Marker.REGION]} regions, "
            f"given are {len(tokens.classes)} and {tokens.num_regions}"
        )
    classes, regions = 0, 0
    for token, label, visible in zip(tokens.ids, tokens.labels, tokens.mask, strict=True):
        if token == Marker.IMAGE:
            yield [0] * counts.image, Source.IMAGE, 0, IGNORED, True
        elif token == Marker.TEMPORAL:
            yield [0] * counts.fine_grained, Source.FINE_GRAINED, 0, IGNORED, True
        elif token == Marker.SEG:
            yield [0] * counts.queries, Source.QUERY, 0, IGNORED, True
        elif token == Marker.REFER:
            yield tokens.expression, Source.EXPRESSION, 1, IGNORED, True
        elif token == Marker.CLS:
            classes += 1
            yield tokens.classes[classes - 1], Source.CLASS, classes, IGNORED, True
        elif token == Marker.REGION:
            regions += 1
            yield [0], Source.REGION, regions, IGNORED, True
        else:
            yield [token], Source.TEXT, 0, label, visible
