"""The options of text generation, and the distribution of sampled tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.sampling import choose_randomly

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.1, 0.3])
DRAWS = 4000


@jax.jit
def draw(decoding):
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES)), (DRAWS, 1))
    return choose_randomly(logits, jax.random.split(jax.random.key(0), DRAWS), decoding)


@pytest.mark.parametrize(
    "options, kept",
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 1}, [1]),
        ({"top_p": 0.69}, [1, 4]),
        ({"top_p": 0.71}, [1, 2, 4]),
        ({"top_p": 1e-6}, [1]),
        ({"top_k": 3, "top_p": 0.75}, [1, 4]),  # of the three best, 0.4 + 0.3 are 0.82 of the probability
        ({"temperature": 0.5}, [0, 1, 2, 3, 4]),
        ({"temperature": 0.5, "top_p": 0.85}, [1, 4]),  # squares: 0.16 + 0.09 of 0.295 are 0.847, 0.16 alone 0.54
    ],
)
def test_frequencies(options, kept):
    decoding = Decoding("sampling", **options)
    frequencies = np.bincount(np.asarray(draw(decoding)), minlength=5) / DRAWS
    expected = np.where(np.isin(np.arange(5), kept), PROBABILITIES ** (1 / decoding.temperature), 0)
    expected /= expected.sum()
    assert (frequencies[expected == 0] == 0).all()
    np.testing.assert_allclose(frequencies, expected, atol=4 * np.sqrt(0.25 / DRAWS))


def test_the_support_is_that_of_transformers():
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(0, 2, (6, 40)).astype(np.float32)
    scores = torch.tensor(logits)
    for warp in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(9), TopPLogitsWarper(0.8)):
        scores = warp(None, scores)
    kept = [set(np.flatnonzero(np.isfinite(row))) for row in scores.numpy()]
    decoding = Decoding("sampling", temperature=0.7, top_k=9, top_p=0.8)
    keys = jax.random.split(jax.random.key(0), 3000).reshape(500, 6)
    drawn = np.asarray(jax.jit(jax.vmap(lambda keys: choose_randomly(logits, keys, decoding)))(keys))
    assert [set(column) for column in drawn.T] == kept and {1, 9}.isdisjoint({len(ids) for ids in kept[:2]})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "beam"}, "kind = 'beam': use one of greedy, sampling, beams"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be an integer from 1 to 4096"),
        ({"max_new_tokens": 10**9}, "max_new_tokens = 1000000000: must be an integer from 1 to 4096"),
        ({"max_new_tokens": True}, "max_new_tokens = True"),
        ({"beams": -2}, "beams = -2: must be an integer from 1 to 64"),
        ({"beams": 10**9}, "beams = 1000000000: must be an integer from 1 to 64"),
        ({"chunk": -1}, "chunk = -1"),
        ({"chunk": 10**20}, "chunk = 1"),
        (
            {"temperature": 0.0},
            "temperature = 0.0: must be a number from 1e-06 to 1000000.0; for the most probable use kind='greedy'",
        ),
        ({"temperature": 1e-50}, "temperature = 1e-50"),  # zero in float32
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_k": 10**5000}, "top_k = "),
        ({"top_p": 0.0}, "top_p = 0.0: must be a number from 1e-06 to 1; 1 keeps all tokens"),
        ({"top_p": 1e-50}, "top_p = 1e-50"),
        ({"length_penalty": float("inf")}, "length_penalty = inf"),
        ({"length_penalty": -1e30}, "length_penalty = -1e.30: must be a number from -8 to 8"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(UserError, match=message):
        Decoding(**options).check()


def test_unknown_options():
    with pytest.raises(UserError, match="num_beams is no option of text generation; use some of kind, max_new_tokens"):
        Decoding().replaced({"num_beams": 3})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"beams": 3}, "beams is only for kind = 'beams', and kind is 'greedy'; give kind='beams'"),
        ({"kind": "beams", "top_k": 3}, "top_k is only for kind = 'sampling', and kind is 'beams'"),
        ({"kind": "sampling", "temperature": 0.7, "length_penalty": 2.0}, "length_penalty is only for kind = 'beams'"),
    ],
)
def test_options_that_would_not_be_read(changes, message):
    with pytest.raises(UserError, match=message):
        Decoding().replaced(changes)
    assert Decoding("beams").replaced({"beams": 5}).beams == 5  # the default of a system


def test_numbers_do_not_change_the_program():
    traced = []
    run = jax.jit(lambda decoding: traced.append(decoding.kind) or decoding.temperature * 2)
    for options in ({}, {"temperature": 0.5}, {"top_k": 7, "top_p": 0.2, "length_penalty": 3.0}, {"kind": "beams"}):
        run(jax.tree.map(np.float32, dataclasses.replace(Decoding(), **options)))
    assert traced == ["greedy", "beams"]
