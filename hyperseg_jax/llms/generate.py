"""Writing text: the most probable token, again and again, in one compiled loop without a look at the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Step = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


def greedy(logits: jax.Array, step: Step, state: Any, *, max_new_tokens: int, eos_id: int, vocab_size: int) -> jax.Array:
    """The tokens that follow a prompt, int32 [B, max_new_tokens]; behind a row's eos_id all are eos_id.

    logits: [B, V] of the first one. step(ids [B], number of the token from 0, state) -> (logits [B, V] of the next, state), as
    a model with a cache gives it; it is not called for the last token, nor once every row has ended. vocab_size: ids from
    there on are never written, since a head may be wider than its vocabulary.
    """
    best = lambda logits: jnp.argmax(logits[:, :vocab_size], axis=-1).astype(jnp.int32)
    written = jnp.full((logits.shape[0], max_new_tokens), eos_id, jnp.int32)

    def open_(carry: tuple[Any, ...]) -> jax.Array:
        at, ids, *_ = carry
        return (at < max_new_tokens - 1) & ~jnp.all(ids == eos_id)

    def write(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        at, ids, written, state = carry
        logits, state = step(ids, at, state)
        ids = jnp.where(ids == eos_id, eos_id, best(logits))
        return at + 1, ids, written.at[:, at + 1].set(ids), state

    first = best(logits)
    *_, written, _ = jax.lax.while_loop(open_, write, (jnp.int32(0), first, written.at[:, 0].set(first), state))
    return written
