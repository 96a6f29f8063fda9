"""Keys and values of what was read, so that writing a token costs one position; every shape is static."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax.structs import DeviceArray

Slots = Float[DeviceArray, "layers B S heads D"]


@flax.struct.dataclass
class KeyValues:
    """keys, values: a slot for each position of the prompt and then for each token to be written. visible: slots that may be
    looked at. used: the slot of the next token, the same in all rows."""

    keys: Slots
    values: Slots
    visible: Bool[jax.Array, "B S"]
    used: Int[jax.Array, ""]

    @classmethod
    def of_prompt(cls, keys: Slots, values: Slots, mask: Bool[DeviceArray, "B S"], room: int) -> KeyValues:
        """Of a prompt's positions and its mask, with `room` empty slots behind it."""
        visible = jnp.pad(jnp.asarray(mask), ((0, 0), (0, room)))
        return cls(_wider(keys, room), _wider(values, room), visible, jnp.int32(mask.shape[1]))

    def widened(self, mask: Bool[DeviceArray, "B L"], room: int) -> KeyValues:
        """With empty slots for further positions, of which others may look at those in mask, and for `room` tokens."""
        count = mask.shape[1] + room
        visible = jnp.concatenate([self.visible, jnp.pad(mask, ((0, 0), (0, room)))], axis=1)
        return dataclasses.replace(self, keys=_wider(self.keys, count), values=_wider(self.values, count), visible=visible)

    def with_next_visible(self) -> KeyValues:
        """The same, with the slot of the next token visible."""
        return dataclasses.replace(self, visible=self.visible | (jnp.arange(self.visible.shape[1]) == self.used))


def _wider(slots: Slots, count: int) -> Float[jax.Array, "layers B S+{count} heads D"]:
    """With that many empty slots behind."""
    return jnp.pad(slots, ((0, 0), (0, 0), (0, count), (0, 0), (0, 0)))


def place(
    slots: Float[DeviceArray, "B S heads D"], one: Float[DeviceArray, "B L heads D"], slot: Int[DeviceArray, ""]
) -> Float[jax.Array, "B S heads D"]:
    """slots with those of `one` from that slot on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, one.astype(slots.dtype), slot, axis=1)
