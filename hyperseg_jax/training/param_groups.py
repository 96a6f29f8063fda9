"""Freezing, learning rates and weight decay by one ordered table of regexes that must cover every parameter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optax

from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters whose path matches `pattern` (re.fullmatch; the first match counts).

    rate: factor on the learning rate; 0 freezes. decay: AdamW weight decay.
    """

    pattern: str
    rate: float = 1.0
    decay: float = 0.0


def of_config(rules: Iterable[Mapping[str, Any]]) -> tuple[Group, ...]:
    """The table of optimizer.param_groups. UserError where a rule has other fields."""
    table = [dict(rule) for rule in rules]
    for rule in table:
        check_fields("optimizer.param_groups: a rule", Group, rule)
    return tuple(Group(**rule) for rule in table)


def assign(paths: Iterable[str], groups: Sequence[Group]) -> dict[str, int]:
    """{path: index of its group}; raises UserError naming some of the paths that no group matches."""
    compiled = [re.compile(group.pattern) for group in groups]
    found = {path: next((k for k, c in enumerate(compiled) if c.fullmatch(path)), -1) for path in paths}
    lost = [path for path, k in found.items() if k < 0]
    if lost:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        raise UserError(
            f"optimizer.param_groups: no pattern matches {', '.join(lost[:4])}{more} of {len(found)} parameters; "
            'add a rule, or a last one with pattern ".*"'
        )
    return found


def split(params: Mapping[str, Any], groups: Sequence[Group]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, frozen) halves of nested parameters. Only the first is differentiated and has optimizer state."""
    flat = flatten(params)
    where = assign(flat, groups)
    halves: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for path, value in flat.items():
        halves[groups[where[path]].rate == 0][path] = value
    return unflatten(halves[0]), unflatten(halves[1])


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of split."""
    return unflatten({**flatten(trainable), **flatten(frozen)})


def schedule(learning_rate: float, warmup_steps: int, steps: int, final: float = 0.0) -> optax.Schedule:
    """Linear warm-up, then cosine to `final` times the peak. A warm-up longer than half the run is cut to that."""
    warmup = min(warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(1, steps), learning_rate * final)


def optimizer(
    trainable: Mapping[str, Any],
    groups: Sequence[Group],
    rate: optax.Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """AdamW by group, clipped by the global norm of the trainable half."""

    def of_group(group: Group) -> optax.GradientTransformation:
        return optax.adamw(lambda count: group.rate * rate(count), *betas, weight_decay=group.decay)

    where = assign(flatten(trainable), groups)
    labels = unflatten({path: str(k) for path, k in where.items()})
    tx = optax.partition({str(k): of_group(groups[k]) for k in set(where.values())}, labels)
    if clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    return tx
