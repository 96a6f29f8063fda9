"""Keys and values of what was read, so that writing a token costs one position; every shape is static."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KeyValues:
    """keys, values: [layers, B, S, heads, D], a slot for each position of the prompt and then for each token to be written.
    visible: bool [B, S], slots that may be looked at. used: int32 scalar, the slot of the next token, the same in all rows.
    """

    keys: jax.Array
    values: jax.Array
    visible: jax.Array
    used: jax.Array

    @classmethod
    def of_prompt(cls, keys: jax.Array, values: jax.Array, mask: jax.Array, room: int) -> KeyValues:
        """Of a prompt's [layers, B, L, heads, D] and its mask [B, L], with `room` empty slots behind it."""
        visible = jnp.pad(jnp.asarray(mask), ((0, 0), (0, room)))
        return cls(_wider(keys, room), _wider(values, room), visible, jnp.int32(mask.shape[1]))

    def widened(self, mask: jax.Array, room: int) -> KeyValues:
        """With empty slots for further positions, of which others may look at those in mask [B, L], and for `room` tokens."""
        count = mask.shape[1] + room
        visible = jnp.concatenate([self.visible, jnp.pad(mask, ((0, 0), (0, room)))], axis=1)
        return dataclasses.replace(self, keys=_wider(self.keys, count), values=_wider(self.values, count), visible=visible)

    def with_next_visible(self) -> KeyValues:
        """The same, with the slot of the next token visible."""
        return dataclasses.replace(self, visible=self.visible | (jnp.arange(self.visible.shape[1]) == self.used))


def _wider(slots: jax.Array, count: int) -> jax.Array:
    """[layers, B, S, heads, D] with that many empty slots behind."""
    return jnp.pad(slots, ((0, 0), (0, 0), (0, count), (0, 0), (0, 0)))


def place(slots: jax.Array, one: jax.Array, slot: jax.Array) -> jax.Array:
    """slots [B, S, heads, D] with one [B, n, heads, D] from that slot on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, one.astype(slots.dtype), slot, axis=1)
