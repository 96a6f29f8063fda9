"""The key-value cache, with static shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from hyperseg_jax.structs import DeviceArray

Slots = Float[DeviceArray, "layers B S heads D"]
OfTexts = Callable[[Shaped[jax.Array, "M ..."]], Shaped[jax.Array, "N ..."]]
"""A function of arrays with the axis of texts first, such as a choice of texts."""


@flax.struct.dataclass
class KeyValues:
    """A key-value cache.

    keys, values: slots for the positions of the prompt, then for tokens to be generated. visible: slots that may be attended
    to. used: the slot of the next token, the same in all rows.
    """

    keys: Slots
    values: Slots
    visible: Bool[jax.Array, "B S"]
    used: Int[jax.Array, ""]

    @classmethod
    def from_prompt(cls, keys: Slots, values: Slots, mask: Bool[DeviceArray, "B S"], empty_slots: int) -> KeyValues:
        """Creates a cache from the keys, values and mask of a prompt, followed by `empty_slots` slots for new tokens."""
        visible = jnp.pad(jnp.asarray(mask), ((0, 0), (0, empty_slots)))
        return cls(_append_slots(keys, empty_slots), _append_slots(values, empty_slots), visible, jnp.int32(mask.shape[1]))

    def extended(self, mask: Bool[DeviceArray, "B L"], empty_slots: int) -> KeyValues:
        """Returns the cache with more empty slots: those for the positions of `mask`, visible where it is True, and
        `empty_slots` for new tokens."""
        count = mask.shape[1] + empty_slots
        visible = jnp.concatenate([self.visible, jnp.pad(mask, ((0, 0), (0, empty_slots)))], axis=1)
        return dataclasses.replace(
            self, keys=_append_slots(self.keys, count), values=_append_slots(self.values, count), visible=visible
        )

    def with_next_visible(self) -> KeyValues:
        """Returns the cache with the slot of the next token visible."""
        return dataclasses.replace(self, visible=self.visible | (jnp.arange(self.visible.shape[1]) == self.used))

    def map_texts(self, function: OfTexts) -> KeyValues:
        """Applies a function to the rows of the cache."""
        of_each_layer = jax.vmap(function)
        keys, values = of_each_layer(self.keys), of_each_layer(self.values)
        return dataclasses.replace(self, keys=keys, values=values, visible=function(self.visible))


def map_texts(function: OfTexts, tree: Any) -> Any:
    """Applies a function to all arrays of a tree, which have the axis of texts first, and to the rows of caches."""
    is_cache = lambda node: isinstance(node, KeyValues)
    apply = lambda node: node.map_texts(function) if is_cache(node) else function(node)
    return jax.tree.map(apply, tree, is_leaf=is_cache)


def _append_slots(slots: Slots, count: int) -> Float[jax.Array, "layers B S+{count} heads D"]:
    """Appends `count` empty slots."""
    return jnp.pad(slots, ((0, 0), (0, 0), (0, count), (0, 0), (0, 0)))


def write_slots(
    slots: Float[DeviceArray, "B S heads D"], new: Float[DeviceArray, "B L heads D"], slot: Int[DeviceArray, ""]
) -> Float[jax.Array, "B S heads D"]:
    """Writes `new` into the slots, starting at index `slot`."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), slot, axis=1)
