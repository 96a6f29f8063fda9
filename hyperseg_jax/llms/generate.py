"""Text generation in one compiled loop without host synchronization."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, Int32, Key, UInt32

from hyperseg_jax.llms.beams import search_beams
from hyperseg_jax.llms.cache import map_texts
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.sampling import choose_best, choose_randomly
from hyperseg_jax.structs import DeviceArray

Logits = Float[jax.Array, "M V"]
Step = Callable[[Int32[jax.Array, " M"], Int32[jax.Array, ""], Any], tuple[Logits, Any]]


@dataclasses.dataclass(frozen=True)
class Writer:
    """The interface of text generation: N texts for each of the K prompts of B examples. N is 1, or the number of regions.

    prepare(parameters, batch, features) -> (inputs, (K, N)): what the texts start from.
    begin(parameters, inputs, empty_slots) -> (logits of the first tokens [M, V], state with slots for this many new tokens).
    step(parameters, ids [M], index of these tokens from 0, state) -> (logits of the next tokens [M, V], state).

    Inputs and state are nested arrays with the axis of texts first, and KeyValues. prepare returns those of all B * K * N
    texts, in this order; begin and step get those of any M texts: of some regions of each example, or of each beam.
    """

    prepare: Callable[[Any, Any, Any], tuple[Any, tuple[int, int]]]
    begin: Callable[[Any, Any, int], tuple[Logits, Any]]
    step: Callable[[Any, Int32[jax.Array, " M"], Int32[jax.Array, ""], Any], tuple[Logits, Any]]

    def write(
        self, params: Any, batch: Any, features: Any, seeds: UInt32[DeviceArray, " B"], decoding: Decoding
    ) -> Int32[jax.Array, "B K N {decoding.max_new_tokens}"]:
        """Generates the texts; all tokens after eos_id are eos_id. seeds: of sampling, one for each example; its texts do not
        depend on the other examples. decoding: with eos_id and vocab_size."""
        inputs, (prompts, regions) = self.prepare(params, batch, features)
        count = prompts * regions
        chunk = min(decoding.chunk or count, count)
        all_inputs = inputs, _text_keys(seeds, prompts, regions)

        def write_texts(inputs: tuple[Any, jax.Array]) -> Int32[jax.Array, "M T"]:
            logits, state = self.begin(params, inputs[0], decoding.max_new_tokens - 1)
            step: Step = lambda ids, number, state: self.step(params, ids, number, state)
            return generate(logits, step, state, inputs[1], decoding)

        def write_chunk(first: jax.Array) -> Int32[jax.Array, "M T"]:
            numbers = jnp.minimum(first + jnp.arange(chunk), count - 1)
            take = lambda x: x.reshape(-1, count, *x.shape[1:])[:, numbers].reshape(-1, *x.shape[1:])
            return write_texts(map_texts(take, all_inputs))

        if chunk == count:
            ids = write_texts(all_inputs)
        else:
            chunks = jax.lax.map(write_chunk, jnp.arange(0, count, chunk))
            ids = rearrange(chunks, "chunks (b chunk) t -> b (chunks chunk) t", chunk=chunk)[:, :count]
        return ids.reshape(-1, prompts, regions, decoding.max_new_tokens)


def _text_keys(seeds: UInt32[DeviceArray, " B"], prompts: int, regions: int) -> Key[jax.Array, " M"]:
    """Returns a key for each text, which depends only on the seed of its example and its numbers in the example."""
    fold = lambda keys, count: jax.vmap(lambda key: jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(count)))(keys)
    keys = fold(jax.vmap(jax.random.key)(seeds), prompts).reshape(-1)
    return fold(keys, regions).reshape(-1)


def generate(
    logits: Float[DeviceArray, "M V"], step: Step, state: Any, keys: Key[jax.Array, " M"], decoding: Decoding
) -> Int32[jax.Array, "M {decoding.max_new_tokens}"]:
    """Returns the generated tokens of M texts; all tokens after eos_id are eos_id.

    logits: of the first token. step(ids [M], index of the token from 0, state) -> (logits [M, V] of the next token, state); it
    is not called for the last token, nor after all texts have ended. state: see Writer. With beam search, step gets beams * M
    texts. keys: of sampling.
    """
    if decoding.kind == "beams":
        return search_beams(logits, step, state, decoding)
    eos = decoding.end_id

    def choose(logits: jax.Array, index: jax.Array) -> Int32[jax.Array, " M"]:
        logits = logits[:, : decoding.vocab_size]
        if decoding.kind == "greedy":
            return choose_best(logits)
        return choose_randomly(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, index), decoding)

    def is_unfinished(carry: tuple[Any, ...]) -> jax.Array:
        index, ids, *_ = carry
        return (index < decoding.max_new_tokens - 1) & ~jnp.all(ids == eos)

    def generate_next(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        index, ids, generated, state = carry
        logits, state = step(ids, index, state)
        ids = jnp.where(ids == eos, eos, choose(logits, index + 1))
        return index + 1, ids, generated.at[:, index + 1].set(ids), state

    first = choose(logits, jnp.int32(0))
    generated = jnp.full((len(first), decoding.max_new_tokens), eos, jnp.int32).at[:, 0].set(first)
    *_, generated, _ = jax.lax.while_loop(is_unfinished, generate_next, (jnp.int32(0), first, generated, state))
    return generated
