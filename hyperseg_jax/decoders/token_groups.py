"""Groups of queries and tokens in one sequence, and tables that say which groups attend to which.

A table is data, so that variants of a decoder with equal weights differ only in their table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax.structs import DeviceArray

Rule = Literal["all", "valid", "prompt"]
"""What positions of a row's group may attend to in a column's group: all positions; those that are valid, if the row itself is
valid; those of the same prompt."""
AttentionTable = Mapping[str, Mapping[str, Rule]]
"""{group of the rows: {group of the columns: rule}}; what is not listed is not attended."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive positions of a sequence.

    content, positions: [B, L, C]. valid: [B, L]; None: all. prompt: [B, L], number of the prompt that a position belongs to,
    -1 for padding; None if the group is not divided by prompts.
    """

    name: str
    content: Float[DeviceArray, "B L C"]
    positions: Float[DeviceArray, "B L C"]
    valid: Bool[DeviceArray, "B L"] | None = None
    prompt: Int[DeviceArray, "B L"] | None = None

    @property
    def length(self) -> int:
        return self.content.shape[1]


def attention_mask(groups: Sequence[Group], table: AttentionTable) -> Bool[jax.Array, "B S S"]:
    """Returns which positions of the sequence may attend to which; a row may have none."""
    rows = [jnp.concatenate([_block(row, column, table) for column in groups], axis=2) for row in groups]
    return jnp.concatenate(rows, axis=1)


def _block(row: Group, column: Group, table: AttentionTable) -> Bool[jax.Array, "B L M"]:
    shape = row.content.shape[0], row.length, column.length
    rule = table.get(row.name, {}).get(column.name)
    if rule is None:
        return jnp.zeros(shape, bool)
    if rule == "prompt":
        assert row.prompt is not None and column.prompt is not None, f"{row.name} and {column.name} are not divided by prompts"
        return row.prompt[:, :, None] == column.prompt[:, None, :]
    block = jnp.ones(shape, bool)
    if row.valid is not None:
        block &= row.valid[:, :, None]
    if rule == "valid" and column.valid is not None:
        block &= column.valid[:, None, :]
    return block


def join(groups: Sequence[Group]) -> tuple[Float[jax.Array, "B S C"], Float[jax.Array, "B S C"]]:
    """Returns content and positions of the whole sequence."""
    content, positions = ([getattr(group, field) for group in groups] for field in ("content", "positions"))
    return jnp.concatenate(content, axis=1), jnp.concatenate(positions, axis=1)


def split(sequence: Float[DeviceArray, "B S C"], groups: Sequence[Group]) -> list[Group]:
    """Returns the groups with the content of the sequence."""
    parts, start = [], 0
    for group in groups:
        parts.append(dataclasses.replace(group, content=sequence[:, start : start + group.length]))
        start += group.length
    return parts
