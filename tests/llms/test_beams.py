"""Beam search against a plain rewrite of the published one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beam_search import search

from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import generate

VOCAB, TEXTS, STEPS, EOS = 11, 3, 7, 2


@functools.cache
def table(seed, end_bias):
    """Logits of the next token by text, the last token and the one before it; the end token gets a bias."""
    logits = np.random.default_rng(seed).normal(0, 2, (TEXTS, VOCAB + 1, VOCAB + 1, VOCAB)).astype(np.float32)
    logits[..., EOS] += end_bias
    return logits


@jax.jit
def run(logits, decoding):
    """Searches with a state of two arrays: the number of the text and its last token."""

    def step(ids, number, state):
        return logits[state["text"], state["last"], ids], {"text": state["text"], "last": ids}

    start = jnp.full(TEXTS, VOCAB)
    state = {"text": jnp.arange(TEXTS), "last": start}
    return generate(logits[state["text"], start, start], step, state, jax.random.split(jax.random.key(0), TEXTS), decoding)


def theirs(logits, decoding):
    normalized = np.asarray(jax.nn.log_softmax(logits))

    def search_text(text):
        at = lambda texts: [normalized[text][tuple((VOCAB, VOCAB, *tokens)[-2:])] for tokens in texts]
        return search(at, beams=decoding.beams, steps=STEPS, length_penalty=decoding.length_penalty, end=EOS)

    return np.array([search_text(text) for text in range(TEXTS)])


@pytest.mark.parametrize("beams", [1, 3, 5])
def test_the_published_search(beams):
    lengths = set()
    for seed, end_bias, penalty in itertools.product(range(3), (-1.0, 1.0, 3.0), (1.0, 0.0, 2.0, -1.0)):
        decoding = Decoding("beams", STEPS, beams=beams, length_penalty=penalty, eos_id=EOS, vocab_size=VOCAB)
        logits = table(seed, end_bias)
        expected = theirs(logits, decoding)
        np.testing.assert_array_equal(run(logits, decoding), expected, err_msg=f"seed {seed}, bias {end_bias}, {penalty}")
        lengths |= set((expected != EOS).sum(1).tolist())
    assert len(lengths) > 2 and STEPS in lengths  # some texts end early, and others at the maximum length


def test_ids_beyond_the_vocabulary_are_never_generated():
    limited, all_ids = (Decoding("beams", STEPS, beams=3, eos_id=EOS, vocab_size=size) for size in (6, VOCAB))
    assert run(table(0, 0.0), limited).max() < 6 <= run(table(0, 0.0), all_ids).max()


def test_the_search_ends_when_all_texts_are_done():
    calls = []

    def step(ids, number, state):
        jax.debug.callback(lambda n: calls.append(int(n)), number)
        return jnp.tile(jnp.array([0.0, 0.0, 9.0, 0.0]), (len(ids), 1)), state

    first = jnp.array([[2.0, 1.0, -9.0, 0.0]])
    decoding = Decoding("beams", 40, beams=2, eos_id=EOS)
    keys = jax.random.split(jax.random.key(0), 1)
    result = jax.block_until_ready(jax.jit(lambda: generate(first, step, None, keys, decoding))())
    jax.effects_barrier()
    assert result[0, :2].tolist() == [0, EOS] and calls == [0, 1]  # after the first step, a longer text could still be better
