"""Prompts as fixed-length arrays (host side): what llms/splice.py needs to build the token stream in one gather."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Layout, Source


class Run(NamedTuple):
    """Positions of a token stream that come from one source.

    ids: text ids, one for each position; zeros where no text stands. segment: which class or region they belong to, from 1; 0
    for none. label: the id to be written, IGNORED for none. visible: whether others may look at it.
    """

    ids: Sequence[int]
    source: Source
    segment: int = 0
    label: int = IGNORED
    visible: bool = True


def expanded_length(runs: Iterable[Run]) -> int:
    """Positions that a prompt takes."""
    return sum(len(run.ids) for run in runs)


LENGTH_STEP = 64
"""Positions: what prompts longer than every bucket are rounded up to; a program is compiled for each length."""


def choose_bucket(needed: int, buckets: Iterable[int]) -> int:
    """The smallest bucket that holds `needed` positions; beyond the longest, the next multiple of LENGTH_STEP."""
    longer = -(-needed // LENGTH_STEP) * LENGTH_STEP
    return min((bucket for bucket in buckets if needed <= bucket), default=longer)


def expand(runs: Sequence[Run], length: int) -> Layout:
    """The runs of a prompt -> arrays of `length`. Raises UserError naming the needed and the given length."""
    needed = expanded_length(runs)
    if needed > length:
        raise UserError(
            f"a prompt needs {needed} positions, the layout has {length}: raise the task's `length`, or shorten the text"
        )
    place, lengths = np.arange(length, dtype=np.int32), [len(run.ids) for run in runs]
    at, seen, before = 0, dict.fromkeys(Source, 0), []
    for run, size in zip(runs, lengths, strict=True):
        before.append(at - seen[run.source])  # positions before it of other sources
        at, seen[run.source] = at + size, seen[run.source] + size

    def filled(values: Sequence[int], empty: int = 0, dtype: type = np.int32) -> np.ndarray:
        """One value for each run, over its positions."""
        made: np.ndarray = np.full(length, empty, dtype)
        made[:needed] = np.repeat(np.array(values, dtype), lengths)
        return made

    text_ids = np.zeros(length, np.int32)
    text_ids[:needed] = [token for run in runs for token in run.ids]
    return Layout(
        text_ids=text_ids,
        source=filled([run.source for run in runs]),
        index=np.where(place < needed, place - filled(before), 0),
        segment=filled([run.segment for run in runs]),
        labels=filled([run.label for run in runs], IGNORED),
        mask=filled([run.visible for run in runs], False, bool),
        prompt=(place < needed).astype(np.int32),
        position=place,
    )


def pack(layouts: Sequence[Layout], length: int) -> Layout:
    """The prompts of one image as one sequence of `length`: their common beginning once, then each one's own part.

    layouts: of `expand`, each of any length. Raises UserError naming the needed and the given length.
    """
    common, sizes = _shared(layouts)
    needed = packed_length(layouts)
    if needed > length:
        raise UserError(
            f"{len(layouts)} prompts of one image need {needed} positions, the layout has {length}: "
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
