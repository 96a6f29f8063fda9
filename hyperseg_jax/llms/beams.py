"""Beam search as in transformers 4.36 (`beam_search` with early_stopping=False), with static shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32

from hyperseg_jax import axes
from hyperseg_jax.llms.cache import map_texts
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.structs import DeviceArray

UNUSED = -1e9
"""Sum of the beams of a text that do not exist before the first token."""


@flax.struct.dataclass
class Beams:
    """The search for M texts with n beams, each of at most T tokens.

    ids, sums: tokens of the live beams, and the sums of their log-probabilities. finished, scores: the n best texts that ended;
    the score is -inf if there are fewer. Tokens after the end of a text are the end token. done: whether the search has ended.
    """

    ids: Int32[jax.Array, "M n T"]
    sums: Float32[jax.Array, "M n"]
    finished: Int32[jax.Array, "M n T"]
    scores: Float32[jax.Array, "M n"]
    done: Bool[jax.Array, " M"]

    @classmethod
    def empty(cls, count: int, decoding: Decoding) -> Beams:
        """Returns the search for `count` texts before the first token."""
        ids = jnp.full((count, decoding.beams, decoding.max_new_tokens), decoding.end_id, jnp.int32)
        sums = jnp.full((count, decoding.beams), UNUSED).at[:, 0].set(0.0)
        return cls(ids, sums, ids, jnp.full(sums.shape, -jnp.inf), jnp.zeros(count, bool))

    def with_finished(self, texts: Int32[jax.Array, "M k T"], scores: Float32[jax.Array, "M k"]) -> Beams:
        """Adds texts that ended, and keeps the n best. A score of -inf is not a text; earlier ones win a tie."""
        scores, order = _best(jnp.concatenate([self.scores, scores], axis=1), self.scores.shape[1])
        return dataclasses.replace(self, finished=_take(jnp.concatenate([self.finished, texts], axis=1), order), scores=scores)


def _take(x: jax.Array, indices: jax.Array) -> jax.Array:
    """Takes entries of the second axis of x [M, n, ...], by indices [M, k]."""
    return jax.vmap(lambda row, index: row[index])(x, indices)


def _best(x: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the largest values of each row of x [M, n], in order, and their indices; of equal ones, the first."""
    rows = ("batch", None)  # the compiler does not partition top_k by itself
    indices = axes.map_shards(lambda x: jax.lax.top_k(x, count)[1], rows, out=rows)(x)
    return jnp.take_along_axis(x, indices, axis=1), indices


def search_beams(
    logits: Float[DeviceArray, "M V"], step: Any, state: Any, decoding: Decoding
) -> Int32[jax.Array, "M {decoding.max_new_tokens}"]:
    """Returns the best texts found; all tokens after the end token are the end token.

    logits, step, state: see generate.generate; texts of the beams are next to each other. Each step takes the 2 n best pairs of
    a beam and a token by summed log-probability. Of the n best, those with the end token are finished texts, with score sum /
    length^length_penalty; the best n others are the next beams. A text is done when it has n finished texts, and none of the
    pairs would have a better score at the present length. At the maximum length, the live beams of the others are finished too.
    """
    n, last = decoding.beams, decoding.max_new_tokens
    score = lambda sums, length: sums / jnp.asarray(length, jnp.float32) ** decoding.length_penalty

    def extend(beams: Beams, logits: jax.Array, index: jax.Array) -> tuple[Beams, jax.Array]:
        """Adds the token `index` of the texts. Returns the search, and the beam that each new beam continues [M, n]."""
        probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)[:, : decoding.vocab_size]
        sums = beams.sums[..., None] + probabilities.reshape(*beams.sums.shape, -1)
        best, pairs = _best(sums.reshape(len(sums), -1), 2 * n)
        parents, tokens = pairs // sums.shape[-1], (pairs % sums.shape[-1]).astype(jnp.int32)
        is_end = tokens == decoding.end_id
        texts = _take(beams.ids, parents).at[..., index].set(tokens)
        ended = beams.with_finished(texts[:, :n], jnp.where(is_end, score(best, index + 1), -jnp.inf)[:, :n])
        live = jnp.argsort(is_end, axis=1, stable=True)[:, :n]
        done = jnp.isfinite(ended.scores).all(1) & (ended.scores[:, -1] >= score(best[:, 0], index + 1))
        extended = dataclasses.replace(ended, ids=_take(texts, live), sums=_take(best, live), done=done)
        keep_done = lambda old, new: jnp.where(beams.done.reshape(-1, *(1,) * (new.ndim - 1)), old, new)
        return jax.tree.map(keep_done, beams, extended), _take(parents, live)

    def is_unfinished(carry: tuple[jax.Array, Beams, jax.Array, Any]) -> jax.Array:
        index, beams, *_ = carry
        return (index < last) & ~beams.done.all()

    def advance(carry: tuple[jax.Array, Beams, jax.Array, Any]) -> tuple[jax.Array, Beams, jax.Array, Any]:
        index, beams, parents, state = carry
        reorder = lambda x: _take(x.reshape(-1, n, *x.shape[1:]), parents).reshape(x.shape)
        logits, state = step(beams.ids[..., index - 1].reshape(-1), index - 1, map_texts(reorder, state))
        beams, parents = extend(beams, logits, index)
        return index + 1, beams, parents, state

    repeat = lambda x: jnp.repeat(x, n, axis=0)
    beams, parents = extend(Beams.empty(len(logits), decoding), repeat(logits), jnp.int32(0))
    _, beams, *_ = jax.lax.while_loop(is_unfinished, advance, (jnp.int32(1), beams, parents, map_texts(repeat, state)))
    unfinished = jnp.where(beams.done[:, None], -jnp.inf, score(beams.sums, last))
    return beams.with_finished(beams.ids, unfinished).finished[:, 0]
