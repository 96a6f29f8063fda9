"""Param groups: an ordered list of regexes that sets freezing, learning rate and weight decay of every parameter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import optax

from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class ParamGroup:
    """The parameters whose path matches `pattern` (re.fullmatch; the first matching group counts).

    rate: multiplier of the learning rate; 0 freezes. decay: AdamW weight decay.
    """

    pattern: str
    rate: float = 1.0
    decay: float = 0.0


def groups_from_config(rules: Iterable[Mapping[str, Any]]) -> tuple[ParamGroup, ...]:
    """Returns the groups of optimizer.param_groups. Raises UserError if a rule has unknown fields."""
    table = [dict(rule) for rule in rules]
    for rule in table:
        check_fields("optimizer.param_groups: a rule", ParamGroup, rule)
    return tuple(ParamGroup(**rule) for rule in table)


def assign_groups(paths: Iterable[str], groups: Sequence[ParamGroup]) -> dict[str, int]:
    """Returns {path: index of its group}. Raises UserError, naming some paths, if no group matches them."""
    compiled = [re.compile(group.pattern) for group in groups]
    indices = {path: next((k for k, c in enumerate(compiled) if c.fullmatch(path)), -1) for path in paths}
    unmatched = [path for path, k in indices.items() if k < 0]
    if unmatched:
        more = f" and {len(unmatched) - 4} more" if len(unmatched) > 4 else ""
        raise UserError(
            f"optimizer.param_groups: no pattern matches {', '.join(unmatched[:4])}{more} of {len(indices)} parameters; "
            'add a rule, or a last one with pattern ".*"'
        )
    return indices


def split_params(params: Mapping[str, Any], groups: Sequence[ParamGroup]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (trainable, frozen), two parts of nested parameters. Only `trainable` has gradients and optimizer state."""
    flat = flatten(params)
    indices = assign_groups(flat, groups)
    parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for path, value in flat.items():
        parts[groups[indices[path]].rate == 0][path] = value
    return unflatten(parts[0]), unflatten(parts[1])


def merge_params(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Merges trainable and frozen parameters to nested parameters; the inverse of `split_params`."""
    return unflatten({**flatten(trainable), **flatten(frozen)})


def schedule(learning_rate: float, warmup_steps: int, steps: int, final: float = 0.0) -> optax.Schedule:
    """Returns linear warm-up, then cosine decay to `final` times the peak. Warm-up is limited to half of the run."""
    warmup = min(warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(1, steps), learning_rate * final)


def schedule_from_config(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate of a run. With config.optimizer.drops, the rate is constant after warm-up, and falls to a tenth
    at each of these shares of the steps; otherwise it is a cosine, see `schedule`."""
    c, steps = config.optimizer, config.train.steps
    drops = c.get("drops", ())
    if not drops:
        return schedule(c.learning_rate, c.warmup_steps, steps, c.final_rate)
    warmup = min(c.warmup_steps, steps // 2)
    constant = optax.piecewise_constant_schedule(c.learning_rate, {int(share * steps) - warmup: 0.1 for share in drops})
    if not warmup:
        return constant
    return optax.join_schedules([optax.linear_schedule(0.0, c.learning_rate, warmup), constant], [warmup])


def optimizer(
    trainable: Mapping[str, Any],
    groups: Sequence[ParamGroup],
    rate: optax.Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Returns AdamW by group, with gradients clipped by the global norm of all trainable parameters."""

    def group_optimizer(group: ParamGroup) -> optax.GradientTransformation:
        return optax.adamw(lambda count: group.rate * rate(count), *betas, weight_decay=group.decay)

    indices = assign_groups(flatten(trainable), groups)
    labels = unflatten({path: str(k) for path, k in indices.items()})
    tx = optax.partition({str(k): group_optimizer(groups[k]) for k in set(indices.values())}, labels)
    if clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    return tx
