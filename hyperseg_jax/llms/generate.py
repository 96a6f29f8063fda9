"""Writing text: the most probable token, again and again, in one compiled loop without a look at the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from hyperseg_jax.structs import DeviceArray

Step = Callable[[Int32[jax.Array, "*B"], Int32[jax.Array, ""], Any], tuple[Float[jax.Array, "*B V"], Any]]

Texts = Int32[jax.Array, "B K N {max_new_tokens}"]


@dataclasses.dataclass(frozen=True)
class Writer:
    """How a model writes N texts for each of the K prompts of an element, a token of each at a time. N is 1, or the number of
    regions that it writes about.

    begin(parameters, batch, features, room) -> (logits of the first tokens, state with room for that many).
    step(parameters, ids, their number from 0, state) -> (logits of the next tokens, state).
    """

    begin: Callable[[Any, Any, Any, int], tuple[Float[jax.Array, "B K N V"], Any]]
    step: Callable[[Any, Int32[jax.Array, "B K N"], Int32[jax.Array, ""], Any], tuple[Float[jax.Array, "B K N V"], Any]]

    def greedy(self, params: Any, batch: Any, features: Any, *, max_new_tokens: int, eos_id: int, vocab_size: int) -> Texts:
        """The most probable tokens; behind a text's eos_id all are eos_id. Ids from vocab_size on are never written."""
        logits, state = self.begin(params, batch, features, max_new_tokens)
        step: Step = lambda ids, number, state: self.step(params, ids, number, state)
        return greedy(logits, step, state, max_new_tokens=max_new_tokens, eos_id=eos_id, vocab_size=vocab_size)


def greedy(
    logits: Float[DeviceArray, "*B V"], step: Step, state: Any, *, max_new_tokens: int, eos_id: int, vocab_size: int
) -> Int32[jax.Array, "*B {max_new_tokens}"]:
    """The tokens that follow prompts; behind a text's eos_id all are eos_id.

    logits: of the first one. step(ids [*B], number of the token from 0, state) -> (logits [*B, V] of the next, state), as a
    model with a cache gives it; it is not called for the last token, nor once every text has ended. vocab_size: ids from there
    on are never written, since a head may be wider than its vocabulary.
    """
    best = lambda logits: jnp.argmax(logits[..., :vocab_size], axis=-1).astype(jnp.int32)
    written = jnp.full((*logits.shape[:-1], max_new_tokens), eos_id, jnp.int32)

    def open_(carry: tuple[Any, ...]) -> jax.Array:
        at, ids, *_ = carry
        return (at < max_new_tokens - 1) & ~jnp.all(ids == eos_id)

    def write(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        at, ids, written, state = carry
        logits, state = step(ids, at, state)
        ids = jnp.where(ids == eos_id, eos_id, best(logits))
        return at + 1, ids, written.at[..., at + 1].set(ids), state

    first = best(logits)
    *_, written, _ = jax.lax.while_loop(open_, write, (jnp.int32(0), first, written.at[..., 0].set(first), state))
    return written
