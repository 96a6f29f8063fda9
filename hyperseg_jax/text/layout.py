"""Prompts as fixed-length arrays (host side): what llms/splice.py needs to build the token stream in one gather."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.splice import Layout, Source
from hyperseg_jax.structs import Prompt
from hyperseg_jax.text.prompts import IGNORE, Marker, PromptTokens, Tokenizer, tokenize

__all__ = ["Layout", "Source", "TokenCounts", "build_layout", "choose_bucket", "expand", "expanded_length"]


class TokenCounts(NamedTuple):
    """How many positions the picture, its fine-grained tokens and the mask queries take."""

    image: int
    fine_grained: int
    queries: int


def build_layout(
    prompt: Prompt, tokenizer: Tokenizer, *, counts: TokenCounts, length: int, train: bool = False, template: str = "v0"
) -> Layout:
    """One prompt as arrays of `length`. Raises UserError where it does not fit or lacks its text, classes or regions."""
    return expand(tokenize(prompt, tokenizer, template=template, train=train), counts, length)


def expanded_length(tokens: PromptTokens, counts: TokenCounts) -> int:
    """Positions that the prompt takes once its markers are expanded."""
    return sum(len(ids) for ids, *_ in _runs(tokens, counts))


def choose_bucket(needed: int, buckets: Iterable[int]) -> int:
    """The smallest bucket that holds `needed` positions. Raises UserError naming the config field."""
    buckets = sorted(buckets)
    for bucket in buckets:
        if needed <= bucket:
            return bucket
    raise UserError(f"a prompt needs {needed} positions, the longest bucket has {buckets[-1] if buckets else 0}: "
                    "add a longer one to the config field `buckets`, or shorten the text")  # fmt: skip


def expand(tokens: PromptTokens, counts: TokenCounts, length: int) -> Layout:
    """Ids with markers -> arrays of `length`. Raises UserError naming the needed and the given length."""
    runs = list(_runs(tokens, counts))
    needed = sum(len(ids) for ids, *_ in runs)
    if needed > length:
        raise UserError(f"a prompt needs {needed} positions, the layout has {length}: "
                        "add a longer bucket to the config field `buckets`, or shorten the text")  # fmt: skip
    made = {name: np.zeros(length, np.int32) for name in ("text_ids", "source", "index", "segment")}
    labels, mask = np.full(length, IGNORE, np.int32), np.zeros(length, bool)
    at, seen = 0, dict.fromkeys(Source, 0)
    for ids, source, segment, label, visible in runs:
        here = slice(at, at + len(ids))
        made["text_ids"][here] = ids
        made["source"][here] = source
        made["index"][here] = seen[source] + np.arange(len(ids))
        made["segment"][here] = segment
        labels[here], mask[here] = label, visible
        at, seen[source] = at + len(ids), seen[source] + len(ids)
    return Layout(**made, labels=labels, mask=mask)


Run = tuple[Sequence[int], Source, int, int, bool]  # text ids, source, segment, label, visible


def _runs(tokens: PromptTokens, counts: TokenCounts) -> Iterable[Run]:
    """What each id becomes."""
    named = {marker: tokens.ids.count(marker) for marker in Marker}
    if named[Marker.CLS] != len(tokens.classes) or named[Marker.REGION] != tokens.num_regions:
        raise ValueError(f"the ids mark {named[Marker.CLS]} classes and {named[Marker.REGION]} regions, "
                         f"given are {len(tokens.classes)} and {tokens.num_regions}")  # fmt: skip
    classes, regions = 0, 0
    for token, label, visible in zip(tokens.ids, tokens.labels, tokens.mask, strict=True):
        if token == Marker.IMAGE:
            yield [0] * counts.image, Source.IMAGE, 0, IGNORE, True
        elif token == Marker.TEMPORAL:
            yield [0] * counts.fine_grained, Source.FINE_GRAINED, 0, IGNORE, True
        elif token == Marker.SEG:
            yield [0] * counts.queries, Source.QUERY, 0, IGNORE, True
        elif token == Marker.REFER:
            yield tokens.expression, Source.EXPRESSION, 1, IGNORE, True
        elif token == Marker.CLS:
            classes += 1
            yield tokens.classes[classes - 1], Source.CLASS, classes, IGNORE, True
        elif token == Marker.REGION:
            regions += 1
            yield [0], Source.REGION, regions, IGNORE, True
        else:
            yield [token], Source.TEXT, 0, label, visible
