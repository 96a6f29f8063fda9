"""Restricts a generated text to names of a given list, with static shapes: a token trie, walked by the set of possible names.

The text is names with a separator between them, and then the end token. A name that begins like another one ("red", "red
circle") is possible as long as the tokens so far begin it.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, Int32

from hyperseg_jax.structs import DeviceArray

Flags = Bool[jax.Array, "M N"]


@flax.struct.dataclass
class NameList:
    """The names that each of M texts may contain.

    items: the separator and the tokens of each name; -1 after its end, and everywhere for padding. The last name stands alone:
    it may only be the whole text ("none"). separator: number of tokens of the separator. end: the end token. limit: maximum
    number of names; with 0, the text is empty. vocabulary: all ids are below it. repeats: whether a name may be written again.
    restricted: whether only these names may be written; otherwise any tokens.
    """

    items: Int[DeviceArray, "M N W"]
    separator: Int[DeviceArray, " M"]
    end: Int[DeviceArray, " M"]
    limit: Int[DeviceArray, " M"]
    vocabulary: Int[DeviceArray, " M"]
    repeats: bool = flax.struct.field(pytree_node=False, default=False)
    restricted: bool = flax.struct.field(pytree_node=False, default=True)

    def start(self) -> Progress:
        """Returns the state of empty texts."""
        texts, names, _ = self.items.shape
        none, zero = jnp.zeros((texts, names), bool), jnp.zeros(texts, jnp.int32)
        return Progress(none, none, zero, zero)

    def allowed(self, progress: Progress, room: Int[DeviceArray, ""], vocab_size: int) -> Bool[jax.Array, "M {vocab_size}"]:
        """Returns the tokens that may follow. room: number of tokens that may still be written before the end token, so that
        no name is cut off."""
        ids = jnp.arange(vocab_size)
        if not self.restricted:
            free = (self.limit > 0) & (room > 0)
            return (ids == self.end[:, None]) | ((ids < self.vocabulary[:, None]) & free[:, None])
        next_tokens, possible = self._next_tokens(progress), self._unfinished(progress)
        first, begins = self.items[:, :, 0], self._may_begin(progress, room)
        first = jnp.where((progress.count == 0)[:, None], self._at(self.separator), first)
        at_end = self._complete(progress).any(1) | ((progress.count == 0) & ~begins.any(1))

        def mark(next_tokens: jax.Array, possible: jax.Array, first: jax.Array, begins: jax.Array) -> jax.Array:
            marked = jnp.zeros(vocab_size, bool)
            marked = marked.at[jnp.where(possible, next_tokens, vocab_size)].set(True, mode="drop")
            return marked.at[jnp.where(begins, first, vocab_size)].set(True, mode="drop")

        marked = jax.vmap(mark)(next_tokens, possible, first, begins)
        return marked | ((ids == self.end[:, None]) & at_end[:, None])

    def advance(self, progress: Progress, ids: Int32[DeviceArray, " M"], room: Int[DeviceArray, ""]) -> Progress:
        """Returns the state after a token that was allowed with this room. A token that continues a name does not begin
        another one."""
        continues = self._unfinished(progress) & (self._next_tokens(progress) == ids[:, None])
        complete, start = self._complete(progress), progress.count == 0
        first = jnp.where(start[:, None], self._at(self.separator), self.items[:, :, 0])
        begins = self._may_begin(progress, room) & (first == ids[:, None])
        stays = continues.any(1)
        begun = begins.any(1) & ~stays
        read = jnp.where(stays, progress.read + 1, jnp.where(start, self.separator + 1, 1))
        return Progress(
            active=jnp.where(stays[:, None], continues, begins),
            used=progress.used | (complete & begun[:, None]),
            read=jnp.where(stays | begun, read, progress.read),
            count=progress.count + begun,
        )

    def classes_of(self, ids: Int32[DeviceArray, "M T"]) -> Int32[jax.Array, "M T"]:
        """Returns, for each token of restricted texts, the index of the name that it is a part of; -1 for separators, the end
        and what follows it."""

        def step(progress: Progress, token: jax.Array) -> tuple[Progress, tuple[jax.Array, ...]]:
            after = self.advance(progress, token, jnp.int32(ids.shape[1]))
            complete = self._complete(after)
            is_part = (after.read > self.separator) & (token != self.end) & (after.count > 0)
            return after, (after.count, jnp.where(complete.any(1), complete.argmax(1), -1), is_part)

        _, outputs = jax.lax.scan(step, self.start(), ids.T)
        count, found, is_part = (output.T for output in outputs)  # [M, T]
        ended = jnp.cumsum(ids == self.end[:, None], axis=1) > 0
        same = (count[:, :, None] == count[:, None, :]) & ~ended[:, None, :]
        last = jnp.where(same, jnp.arange(ids.shape[1]), 0).max(-1)  # the last token of the same name
        return jnp.where(is_part & ~ended, jnp.take_along_axis(found, last, axis=1), -1).astype(jnp.int32)

    @property
    def _lengths(self) -> Int[jax.Array, "M N"]:
        return (self.items >= 0).sum(-1)

    def _at(self, index: Int[jax.Array, " M"]) -> Int[jax.Array, "M N"]:
        """Returns the token of each item at an index."""
        return jnp.take_along_axis(self.items, jnp.clip(index, 0, self.items.shape[2] - 1)[:, None, None], axis=2)[..., 0]

    def _next_tokens(self, progress: Progress) -> Int[jax.Array, "M N"]:
        return self._at(progress.read)

    def _unfinished(self, progress: Progress) -> Flags:
        """Returns the names that the text has begun and not ended."""
        return progress.active & (progress.read[:, None] < self._lengths)

    def _complete(self, progress: Progress) -> Flags:
        """Returns the names with which the text may end here."""
        return progress.active & (progress.read[:, None] == self._lengths)

    def _may_begin(self, progress: Progress, room: Int[DeviceArray, ""]) -> Flags:
        """Returns the names that may follow here."""
        start = (progress.count == 0)[:, None]
        needed = self._lengths - jnp.where(start, self.separator[:, None], 0)
        alone = jnp.arange(self.items.shape[1]) == self.items.shape[1] - 1
        complete = self._complete(progress)
        follows = ~alone & (complete & ~alone).any(1, keepdims=True)
        if not self.repeats:
            follows &= ~(progress.used | complete)
        more = (progress.count < self.limit)[:, None]
        return (self._lengths > self.separator[:, None]) & (needed <= room) & more & jnp.where(start, True, follows)


@flax.struct.dataclass
class Progress:
    """How far M texts are. active: the names that the last tokens may be a part of. used: names written before. read: number of
    tokens of the present item. count: number of names begun."""

    active: Flags
    used: Flags
    read: Int32[jax.Array, " M"]
    count: Int32[jax.Array, " M"]


def restrict(
    names: NameList, progress: Progress, logits: Float[DeviceArray, "M V"], room: Int[DeviceArray, ""]
) -> Float32[jax.Array, "M V"]:
    """Returns the logits of the next token, lowest where it is not allowed."""
    allowed = names.allowed(progress, room, logits.shape[-1])
    return jnp.where(allowed, logits.astype(jnp.float32), jnp.finfo(jnp.float32).min / 2)
