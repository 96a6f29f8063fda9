"""Writing with kept keys and values is writing without them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.llms import phi
from hyperseg_jax.llms.generate import greedy
from hyperseg_jax.structs import TokenStream

MODEL = phi.Phi(vocab_size=20, hidden_size=16, mlp_size=24, num_layers=3, num_heads=2, rotary_fraction=0.5, embedding_std=1.0)
LENGTHS = np.array([7, 4])  # ragged rows, padded on the right
EOS = 3


def stream(embeddings, lengths):
    shape = embeddings.shape[:2]
    places = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return TokenStream(embeddings, places, places < lengths[:, None], np.ones(shape, np.int32))


@functools.cache
def params():
    return nn.unbox(jax.jit(MODEL.init)(jax.random.key(1), stream(PROMPT, LENGTHS))["params"])


PROMPT = jax.random.normal(jax.random.key(0), (2, 7, 16))
HEAD = jax.random.normal(jax.random.key(2), (16, 24)).at[:, 20:].multiply(3)  # wider than the vocabulary


@functools.partial(jax.jit, static_argnames="max_new_tokens")
def with_cache(params, prompt, max_new_tokens):
    apply = functools.partial(MODEL.apply, {"params": params})
    hidden, kept = apply(stream(prompt, LENGTHS), max_new_tokens, method="prefill")

    def step(ids, number, kept):
        hidden, kept = apply(apply(ids, method="embed"), LENGTHS + number, kept, method="step")
        return hidden @ HEAD, kept

    first = hidden[np.arange(2), LENGTHS - 1] @ HEAD
    return greedy(first, step, kept, max_new_tokens=max_new_tokens, eos_id=EOS, vocab_size=20)


@jax.jit
def next_logits(params, prompt, lengths):
    hidden = MODEL.apply({"params": params}, stream(prompt, lengths))
    return hidden[np.arange(2), lengths - 1] @ HEAD


def without_cache(count):
    """The whole sequence through the model for each token."""
    rows, lengths = jnp.pad(PROMPT, ((0, 0), (0, count), (0, 0))), LENGTHS.copy()
    written, ended = [], np.zeros(2, bool)
    for _ in range(count):
        ids = np.where(ended, EOS, np.asarray(next_logits(params(), rows, lengths))[:, :20].argmax(-1))
        ended |= ids == EOS
        written.append(ids)
        rows = rows.at[np.arange(2), lengths].set(params()["tokens"]["embedding"][ids])
        lengths = lengths + 1
    return np.stack(written, 1)


def test_kept_keys_and_values_change_nothing():
    np.testing.assert_array_equal(with_cache(params(), PROMPT, 12), without_cache(12))
    assert len(np.unique(without_cache(12))) > 3  # it does not merely repeat itself


def test_one_step_is_the_next_position_of_a_forward_pass():
    apply = functools.partial(MODEL.apply, {"params": params()})
    _, kept = jax.jit(lambda: apply(stream(PROMPT, LENGTHS), 3, method="prefill"))()
    added = jax.random.normal(jax.random.key(5), (2, 3, 16))
    rows = jnp.pad(PROMPT, ((0, 0), (0, 3), (0, 0)))
    step = jax.jit(lambda embedding, place, kept: apply(embedding, place, kept, method="step"))
    for k in range(3):
        hidden, kept = step(added[:, k], LENGTHS + k, kept)
        rows = rows.at[np.arange(2), LENGTHS + k].set(added[:, k])
        np.testing.assert_allclose(hidden @ HEAD, next_logits(params(), rows, LENGTHS + k + 1), rtol=1e-5, atol=1e-5)


def test_a_head_wider_than_the_vocabulary_writes_known_ids_only():
    assert np.asarray(next_logits(params(), PROMPT, LENGTHS)).argmax(-1).max() >= 20
    assert np.asarray(with_cache(params(), PROMPT, 12)).max() < 20


@pytest.mark.parametrize("ends", [0, 2, 9])
def test_a_row_ends_with_the_end_of_text(ends):
    """A toy model that writes 5, 6, 7, ... and ends after `ends` tokens; the other row never does."""

    def step(ids, number, calls):
        logits = jax.nn.one_hot(jnp.array([6 + number, 6]), 30)
        return logits + 9 * jax.nn.one_hot(jnp.where(number + 1 == ends, EOS, 29), 30) * jnp.array([[1.0], [0.0]]), calls + 1

    first = jax.nn.one_hot(jnp.array([EOS if ends == 0 else 5, 5]), 30)
    found = np.asarray(greedy(first, step, jnp.int32(0), max_new_tokens=5, eos_id=EOS, vocab_size=29))
    wanted = [5, 6, 7, 8, 9]
    assert found[0].tolist() == wanted[:ends] + [EOS] * (5 - min(ends, 5)) and found[1].tolist() == [5, 6, 6, 6, 6]


def test_the_loop_stops_once_all_rows_have_ended():
    calls = []

    def step(ids, number, state):
        jax.debug.callback(lambda n: calls.append(int(n)), number)
        return jax.nn.one_hot(jnp.full(2, EOS), 8), state

    greedy(jax.nn.one_hot(jnp.array([5, 6]), 8), step, None, max_new_tokens=50, eos_id=EOS, vocab_size=8).block_until_ready()
    jax.effects_barrier()
    assert calls == [0]
