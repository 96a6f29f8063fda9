"""Text generation: greedy decoding in one compiled loop without host synchronization."""

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
    """The interface of text generation: N texts for each of the K prompts of an example. N is 1, or the number of regions.

    begin(parameters, batch, features, empty_slots) -> (logits of the first tokens, state with slots for this many new tokens).
    step(parameters, ids, index of these tokens from 0, state) -> (logits of the next tokens, state).
    """

    begin: Callable[[Any, Any, Any, int], tuple[Float[jax.Array, "B K N V"], Any]]
    step: Callable[[Any, Int32[jax.Array, "B K N"], Int32[jax.Array, ""], Any], tuple[Float[jax.Array, "B K N V"], Any]]

    def greedy(self, params: Any, batch: Any, features: Any, *, max_new_tokens: int, eos_id: int, vocab_size: int) -> Texts:
        """Decodes greedily; all tokens after eos_id are eos_id. Ids >= vocab_size are never generated."""
        logits, state = self.begin(params, batch, features, max_new_tokens)
        step: Step = lambda ids, number, state: self.step(params, ids, number, state)
        return decode_greedily(logits, step, state, max_new_tokens=max_new_tokens, eos_id=eos_id, vocab_size=vocab_size)


def decode_greedily(
    logits: Float[DeviceArray, "*B V"], step: Step, state: Any, *, max_new_tokens: int, eos_id: int, vocab_size: int
) -> Int32[jax.Array, "*B {max_new_tokens}"]:
    """Returns the greedily decoded tokens; all tokens after eos_id are eos_id.

    logits: of the first token. step(ids [*B], index of the token from 0, state) -> (logits [*B, V] of the next token, state);
    it is not called for the last token, nor after all texts have ended. vocab_size: ids >= vocab_size are never generated,
    because a head may be larger than the vocabulary.
    """
    best = lambda logits: jnp.argmax(logits[..., :vocab_size], axis=-1).astype(jnp.int32)
    generated = jnp.full((*logits.shape[:-1], max_new_tokens), eos_id, jnp.int32)

    def is_unfinished(carry: tuple[Any, ...]) -> jax.Array:
        index, ids, *_ = carry
        return (index < max_new_tokens - 1) & ~jnp.all(ids == eos_id)

    def generate_next(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        index, ids, generated, state = carry
        logits, state = step(ids, index, state)
        ids = jnp.where(ids == eos_id, eos_id, best(logits))
        return index + 1, ids, generated.at[..., index + 1].set(ids), state

    first = best(logits)
    *_, generated, _ = jax.lax.while_loop(
        is_unfinished, generate_next, (jnp.int32(0), first, generated.at[..., 0].set(first), state)
    )
    return generated
