"""Prompts as token ids with markers, and the expansion of markers in the token stream."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import NamedTuple

from hyperseg_jax.structs import IGNORED, Source
from hyperseg_jax.text.layout import Run


class Marker(enum.IntEnum):
    """Placeholders for non-text content in a token id sequence; the values of PSALM and its descendants."""

    IMAGE = -200
    SEG = -201  # the mask queries
    CLS = -202  # the next class name
    REGION = -203  # the next region
    REFER = -204  # the expression
    TEMPORAL = -205  # the resampled tokens
    NAME = -206  # the next name of the answer; ours


class Name(NamedTuple):
    """A part of an answer that names entities. ids: its tokens. label: the class that it names, from 1; 0 for none."""

    ids: tuple[int, ...]
    label: int


@dataclasses.dataclass(frozen=True)
class PromptTokens:
    """A prompt as token ids with markers.

    ids: token ids and Markers. labels: target ids, IGNORED where nothing is supervised. mask: for each id, whether other
    positions may attend to it. expression: ids that replace REFER. classes: ids that replace each CLS, in order. num_regions:
    number of REGION markers. names: replace each NAME, in order.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    mask: tuple[bool, ...]
    expression: tuple[int, ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    num_regions: int = 0
    names: tuple[Name, ...] = ()


class TokenCounts(NamedTuple):
    """Number of positions of the image, the resampled tokens (the output of a perceiver) and the mask queries."""

    image: int
    resampled: int
    queries: int


def expand_to_runs(tokens: PromptTokens, counts: TokenCounts) -> list[Run]:
    """Expands each id to a run of the token stream."""
    return list(_generate_runs(tokens, counts))


def _generate_runs(tokens: PromptTokens, counts: TokenCounts) -> Iterable[Run]:
    marker_counts = {marker: tokens.ids.count(marker) for marker in Marker}
    if marker_counts[Marker.CLS] != len(tokens.classes) or marker_counts[Marker.REGION] != tokens.num_regions:
        raise ValueError(
            f"the ids contain markers of {marker_counts[Marker.CLS]} classes and {marker_counts[Marker.REGION]} regions, "
            f"but the prompt has {len(tokens.classes)} and {tokens.num_regions}"
        )
    classes, regions, names = 0, 0, iter(tokens.names)
    for token, label, visible in zip(tokens.ids, tokens.labels, tokens.mask, strict=True):
        if token == Marker.IMAGE:
            yield Run([0] * counts.image, Source.IMAGE)
        elif token == Marker.TEMPORAL:
            yield Run([0] * counts.resampled, Source.RESAMPLED)
        elif token == Marker.SEG:
            yield Run([0] * counts.queries, Source.QUERY)
        elif token == Marker.REFER:
            yield Run(tokens.expression, Source.EXPRESSION, 1)
        elif token == Marker.CLS:
            classes += 1
            yield Run(tokens.classes[classes - 1], Source.CLASS, classes)
        elif token == Marker.REGION:
            regions += 1
            yield Run([0], Source.REGION, regions)
        elif token == Marker.NAME:
            name = next(names)
            for part in name.ids:
                yield Run([part], Source.NAME, name.label, IGNORED if label == IGNORED else part, visible)
        else:
            yield Run([token], Source.TEXT, 0, label, visible)
