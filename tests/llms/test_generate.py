"""Generation with a key-value cache equals generation without."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.llms import phi
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import Writer, generate
from hyperseg_jax.structs import TokenStream

MODEL = phi.Phi(vocab_size=20, hidden_size=16, mlp_size=24, num_layers=3, num_heads=2, rotary_fraction=0.5, embedding_std=1.0)
LENGTHS = np.array([7, 4])  # ragged rows, padded on the right
EOS = 3
KEYS = jax.random.split(jax.random.key(7), 2)


def make_stream(embeddings, lengths):
    shape = embeddings.shape[:2]
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return TokenStream(embeddings, positions, positions < lengths[:, None], np.ones(shape, np.int32))


@functools.cache
def params():
    return nn.unbox(jax.jit(MODEL.init)(jax.random.key(1), make_stream(PROMPT, LENGTHS))["params"])


PROMPT = jax.random.normal(jax.random.key(0), (2, 7, 16))
HEAD = jax.random.normal(jax.random.key(2), (16, 24)).at[:, 20:].multiply(3)  # wider than the vocabulary


@functools.partial(jax.jit, static_argnames="max_new_tokens")
def generate_with_cache(params, prompt, max_new_tokens):
    apply = functools.partial(MODEL.apply, {"params": params})
    hidden, cache = apply(make_stream(prompt, LENGTHS), max_new_tokens, method="prefill")

    def step(ids, number, cache):
        hidden, cache = apply(apply(ids, method="embed"), LENGTHS + number, cache, method="step")
        return hidden @ HEAD, cache

    first = hidden[np.arange(2), LENGTHS - 1] @ HEAD
    return generate(first, step, cache, KEYS, Decoding(max_new_tokens=max_new_tokens, eos_id=EOS, vocab_size=20))


@jax.jit
def next_logits(params, prompt, lengths):
    hidden = MODEL.apply({"params": params}, make_stream(prompt, lengths))
    return hidden[np.arange(2), lengths - 1] @ HEAD


def generate_without_cache(count):
    """Runs the full sequence for each token."""
    rows, lengths = jnp.pad(PROMPT, ((0, 0), (0, count), (0, 0))), LENGTHS.copy()
    tokens, ended = [], np.zeros(2, bool)
    for _ in range(count):
        ids = np.where(ended, EOS, np.asarray(next_logits(params(), rows, lengths))[:, :20].argmax(-1))
        ended |= ids == EOS
        tokens.append(ids)
        rows = rows.at[np.arange(2), lengths].set(params()["tokens"]["embedding"][ids])
        lengths = lengths + 1
    return np.stack(tokens, 1)


def test_cache_does_not_change_the_output():
    np.testing.assert_array_equal(generate_with_cache(params(), PROMPT, 12), generate_without_cache(12))
    assert len(np.unique(generate_without_cache(12))) > 3  # the output is not a constant token


def test_a_step_equals_the_next_position_of_a_full_pass():
    apply = functools.partial(MODEL.apply, {"params": params()})
    _, cache = jax.jit(lambda: apply(make_stream(PROMPT, LENGTHS), 3, method="prefill"))()
    added = jax.random.normal(jax.random.key(5), (2, 3, 16))
    rows = jnp.pad(PROMPT, ((0, 0), (0, 3), (0, 0)))
    step = jax.jit(lambda embedding, position, cache: apply(embedding, position, cache, method="step"))
    for k in range(3):
        hidden, cache = step(added[:, k], LENGTHS + k, cache)
        rows = rows.at[np.arange(2), LENGTHS + k].set(added[:, k])
        np.testing.assert_allclose(hidden @ HEAD, next_logits(params(), rows, LENGTHS + k + 1), rtol=1e-5, atol=1e-5)


def test_ids_beyond_the_vocabulary_are_never_generated():
    assert np.asarray(next_logits(params(), PROMPT, LENGTHS)).argmax(-1).max() >= 20
    assert np.asarray(generate_with_cache(params(), PROMPT, 12)).max() < 20


@pytest.mark.parametrize("ends", [0, 2, 9])
def test_rows_end_with_the_end_of_text(ends):
    """A toy model that generates 5, 6, 7, ... and ends after `ends` tokens; the other row never ends."""

    def step(ids, number, calls):
        logits = jax.nn.one_hot(jnp.array([6 + number, 6]), 30)
        return logits + 9 * jax.nn.one_hot(jnp.where(number + 1 == ends, EOS, 29), 30) * jnp.array([[1.0], [0.0]]), calls + 1

    first = jax.nn.one_hot(jnp.array([EOS if ends == 0 else 5, 5]), 30)
    decoding = Decoding(max_new_tokens=5, eos_id=EOS, vocab_size=29)
    result = np.asarray(generate(first, step, jnp.zeros(2), KEYS, decoding))
    expected = [5, 6, 7, 8, 9]
    assert result[0].tolist() == expected[:ends] + [EOS] * (5 - min(ends, 5)) and result[1].tolist() == [5, 6, 6, 6, 6]


def test_the_loop_stops_when_all_rows_have_ended():
    calls = []

    def step(ids, number, state):
        jax.debug.callback(lambda n: calls.append(int(n)), number)
        return jax.nn.one_hot(jnp.full(2, EOS), 8), state

    first, decoding = jax.nn.one_hot(jnp.array([5, 6]), 8), Decoding(max_new_tokens=50, eos_id=EOS, vocab_size=8)
    generate(first, step, None, KEYS, decoding).block_until_ready()
    jax.effects_barrier()
    assert calls == [0]


@jax.jit
def write_words(tables, seeds, decoding):
    """Writes texts of a model that has the logits of the next word for each word, in tables [B, K, N, V, V]."""

    def prepare(params, tables, features):
        return tables.reshape(-1, *tables.shape[3:]), tables.shape[1:3]

    def begin(params, tables, empty_slots):
        assert empty_slots == decoding.max_new_tokens - 1
        return tables[:, 0], tables

    def step(params, ids, number, tables):
        return jnp.take_along_axis(tables, ids[:, None, None], axis=1)[:, 0], tables

    return Writer(prepare, begin, step).write(None, tables, {}, seeds, decoding)


RANDOM = Decoding("sampling", 6, temperature=2.0, eos_id=0, vocab_size=6)
TABLES = np.random.default_rng(3).normal(0, 1, (2, 2, 3, 6, 6)).astype(np.float32)
SEEDS = np.array([1, 2], np.uint32)


@pytest.mark.parametrize("kind", ["greedy", "sampling", "beams"])
def test_chunks_do_not_change_texts(kind):
    decoding = dataclasses.replace(RANDOM, kind=kind)
    whole = write_words(TABLES, SEEDS, decoding)
    assert whole.shape == (2, 2, 3, 6) and len(np.unique(whole.reshape(12, 6), axis=0)) > 6
    for chunk in (1, 4, 50):
        np.testing.assert_array_equal(write_words(TABLES, SEEDS, dataclasses.replace(decoding, chunk=chunk)), whole)


def test_samples_depend_on_the_seed_of_their_example_alone():
    texts = write_words(TABLES, SEEDS, RANDOM)
    np.testing.assert_array_equal(write_words(TABLES, SEEDS, RANDOM), texts)
    np.testing.assert_array_equal(write_words(TABLES[:1, :1, :2], SEEDS[:1], RANDOM), texts[:1, :1, :2])
    other = write_words(TABLES, np.array([1, 5], np.uint32), RANDOM)
    np.testing.assert_array_equal(other[0], texts[0])
    assert (other[1] != texts[1]).any()
    same = write_words(np.broadcast_to(TABLES[:1, :1, :1], TABLES.shape), SEEDS, RANDOM)
    assert len(np.unique(np.asarray(same).reshape(12, 6), axis=0)) > 6  # texts of one prompt differ between regions


@pytest.mark.parametrize("kind", ["greedy", "sampling", "beams"])
def test_texts_of_a_mesh_are_the_same(kind):
    """The devices agree only on whether all texts have ended."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    decoding = dataclasses.replace(RANDOM, kind=kind, chunk=4)
    program = jax.jit(write_words.__wrapped__, in_shardings=(rows, rows, None), out_shardings=rows)
    with jax.set_mesh(mesh), nn.logical_axis_rules([("batch", "data")]):
        compiled = program.lower(TABLES, SEEDS, decoding).compile()
        texts = compiled(TABLES, SEEDS, decoding)
    np.testing.assert_array_equal(texts, write_words(TABLES, SEEDS, decoding))
    collectives = re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute)\(", compiled.as_text())
    assert set(collectives) == {"all-reduce"}
