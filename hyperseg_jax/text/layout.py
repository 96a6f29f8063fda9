"""Fixed-length prompt arrays on the host, from which llms/splice.py builds the token stream in one gather."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Layout, Source


class Run(NamedTuple):
    """Consecutive positions of a token stream from one source.

    ids: token ids, one for each position; 0 for positions without text. segment: number of the class or region, from 1; 0 for
    none. label: target token id, IGNORED for none. visible: whether other positions may attend to these.
    """

    ids: Sequence[int]
    source: Source
    segment: int = 0
    label: int = IGNORED
    visible: bool = True


def expanded_length(runs: Iterable[Run]) -> int:
    """Returns the number of positions of a prompt."""
    return sum(len(run.ids) for run in runs)


LENGTH_STEP = 64
"""Prompts longer than every bucket are padded to a multiple of this, since a program is compiled for each length."""


def choose_bucket(needed: int, buckets: Iterable[int]) -> int:
    """Returns the smallest bucket of at least `needed` positions; if there is none, the next multiple of LENGTH_STEP."""
    longer = -(-needed // LENGTH_STEP) * LENGTH_STEP
    return min((bucket for bucket in buckets if needed <= bucket), default=longer)


def expand_runs(runs: Sequence[Run], length: int) -> Layout:
    """Converts the runs of a prompt to arrays of `length` positions. Raises UserError if the prompt is longer."""
    needed = expanded_length(runs)
    if needed > length:
        raise UserError(
            f"a prompt needs {needed} positions, the layout has {length}: raise the task's `length`, or shorten the text"
        )
    position, lengths = np.arange(length, dtype=np.int32), [len(run.ids) for run in runs]
    start, counts, offsets = 0, dict.fromkeys(Source, 0), []
    for run, size in zip(runs, lengths, strict=True):
        offsets.append(start - counts[run.source])  # number of preceding positions of other sources
        start, counts[run.source] = start + size, counts[run.source] + size

    def repeat(values: Sequence[int], padding: int = 0, dtype: type = np.int32) -> np.ndarray:
        """Repeats one value per run over its positions."""
        array: np.ndarray = np.full(length, padding, dtype)
        array[:needed] = np.repeat(np.array(values, dtype), lengths)
        return array

    text_ids = np.zeros(length, np.int32)
    text_ids[:needed] = [token for run in runs for token in run.ids]
    return Layout(
        text_ids=text_ids,
        source=repeat([run.source for run in runs]),
        index=np.where(position < needed, position - repeat(offsets), 0),
        segment=repeat([run.segment for run in runs]),
        labels=repeat([run.label for run in runs], IGNORED),
        mask=repeat([run.visible for run in runs], False, bool),
        prompt=(position < needed).astype(np.int32),
        position=position,
    )


def pack_layouts(layouts: Sequence[Layout], length: int, *, separate: Collection[Source] = ()) -> Layout:
    """Packs the prompts of one image into one sequence of `length`: their common prefix once, then the rest of each prompt.

    layouts: results of `expand_runs`, of any lengths. separate: sources whose embeddings differ between the prompts. Raises
    UserError if the packed sequence is longer.
    """
    common, sizes = _prefix_and_lengths(layouts, separate)
    needed = packed_length(layouts, separate=separate)
    if needed > length:
        one = len(layouts) == 1
        raise UserError(
            f"{'a prompt needs' if one else f'{len(layouts)} prompts of one image need'} {needed} positions, the layout has "
            f"{length}: raise the task's `length`, or {'shorten the text' if one else 'reduce its `prompts`'}"
        )
    parts = [(0, layouts[0], 0, common)] + [
        (k, layout, common, size) for k, (layout, size) in enumerate(zip(layouts, sizes, strict=True), 1)
    ]
    arrays = {}
    for field in dataclasses.fields(Layout):
        pieces = [
            np.full(stop - start, number) if field.name == "prompt" else getattr(layout, field.name)[start:stop]
            for number, layout, start, stop in parts
        ]
        value = np.full(length, IGNORED if field.name == "labels" else 0, getattr(layouts[0], field.name).dtype)
        value[:needed] = np.concatenate(pieces)
        arrays[field.name] = value
    return Layout(**arrays)


def packed_length(layouts: Sequence[Layout], *, separate: Collection[Source] = ()) -> int:
    """Returns the number of positions after packing."""
    common, sizes = _prefix_and_lengths(layouts, separate)
    return common + sum(size - common for size in sizes)


def _prefix_and_lengths(layouts: Sequence[Layout], separate: Collection[Source]) -> tuple[int, list[int]]:
    """Returns the length of the common prefix, and the total length of each prompt."""
    sizes = [int((layout.source != Source.PADDING).sum()) for layout in layouts]
    return _common_prefix_length(layouts, min(sizes), separate) if len(layouts) > 1 else 0, sizes


def _common_prefix_length(layouts: Sequence[Layout], limit: int, separate: Collection[Source]) -> int:
    """Returns the length of the prefix that all layouts share. It ends before any pooled, query, separate or target position.

    A target token is predicted at the preceding position, so that position is not part of the prefix either.
    """
    first = layouts[0]
    pooled = (Source.EXPRESSION, Source.CLASS, Source.REGION, Source.QUERY, Source.NAME)
    differs = np.isin(first.source, (*pooled, *separate))[:limit]
    for layout in layouts:
        has_target = layout.labels != IGNORED
        differs |= (has_target | np.append(has_target[1:], False))[:limit]
        for name in ("text_ids", "source", "index", "mask"):
            differs |= getattr(first, name)[:limit] != getattr(layout, name)[:limit]
    return int(differs.argmax()) if differs.any() else limit
