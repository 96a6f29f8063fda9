import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.llms.splice import pool, splice
from hyperseg_jax.structs import Layout, Source

S = Source
# (source, index, segment, prompt): a common beginning, then two prompts, then padding
ROW = [
    (S.TEXT, 0, 0, 0),
    (S.IMAGE, 0, 0, 0),
    (S.IMAGE, 1, 0, 0),
    (S.FINE_GRAINED, 0, 0, 0),
    (S.CLASS, 0, 1, 1),
    (S.CLASS, 1, 1, 1),
    (S.CLASS, 2, 2, 1),
    (S.REGION, 0, 1, 1),
    (S.QUERY, 0, 0, 1),
    (S.QUERY, 1, 0, 1),
    (S.EXPRESSION, 0, 1, 2),
    (S.EXPRESSION, 1, 1, 2),
    (S.REGION, 0, 1, 2),
    (S.REGION, 1, 2, 2),
    (S.QUERY, 0, 0, 2),
    (S.QUERY, 1, 0, 2),
    (S.PADDING, 0, 0, 0),
]
WIDTH, BATCH, PROMPTS, LENGTH = 4, 2, 2, len(ROW)
SIZES = {"num_prompts": PROMPTS, "num_queries": 2, "num_fine_grained": 1, "num_classes": 3, "num_regions": 2}


@pytest.fixture
def layout():
    source, index, segment, prompt = (np.broadcast_to(np.int32(part), (BATCH, LENGTH)) for part in zip(*ROW, strict=True))
    ids = np.where(np.isin(source, (S.TEXT, S.CLASS, S.EXPRESSION)), 7, 0).astype(np.int32)
    labels, place = np.full_like(source, -100), np.broadcast_to(np.arange(LENGTH, dtype=np.int32), source.shape)
    return Layout(ids, source, index, segment, labels, source != S.PADDING, prompt, place)


@pytest.fixture
def banks():
    shapes = {
        "text": (BATCH, LENGTH),
        "image": (BATCH, 2),
        "queries": (2,),
        "fine_grained": (BATCH, 1),
        "regions": (BATCH, PROMPTS, 2),
    }
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {name: jax.random.normal(key, (*shape, WIDTH)) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def test_each_position_comes_from_its_bank(layout, banks):
    stream = jax.jit(lambda layout, text, **kw: splice(layout, text, **kw))(layout, **banks)
    for b in range(BATCH):
        picked = {
            S.IMAGE: lambda at, index, prompt, b=b: banks["image"][b, index],
            S.FINE_GRAINED: lambda at, index, prompt, b=b: banks["fine_grained"][b, index],
            S.REGION: lambda at, index, prompt, b=b: banks["regions"][b, prompt - 1, index],
            S.QUERY: lambda at, index, prompt: banks["queries"][index],
            S.PADDING: lambda at, index, prompt: jnp.zeros(WIDTH),
        }
        for at, (source, index, _, prompt) in enumerate(ROW):
            expected = picked[source](at, index, prompt) if source in picked else banks["text"][b, at]
            np.testing.assert_array_equal(stream.embeddings[b, at], expected, err_msg=f"{b} {at} {source.name}")
    for name, part in (("mask", stream.mask), ("position", stream.positions), ("prompt", stream.prompt)):
        np.testing.assert_array_equal(part, getattr(layout, name))


def test_pooling_takes_the_mean_of_each_segment(layout):
    hidden = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))
    pooled = jax.jit(lambda h: pool(h, layout, **SIZES))(hidden)
    close = lambda ours, expected: np.testing.assert_allclose(ours, expected, atol=1e-6)
    close(pooled["queries"], jnp.stack([hidden[:, 8:10], hidden[:, 14:16]], 1))
    close(pooled["fine_grained"], hidden[:, 3:4])
    close(pooled["expression"][:, 1], hidden[:, 10:12].mean(1))
    close(pooled["classes"][:, 0, 0], hidden[:, 4:6].mean(1))
    close(pooled["classes"][:, 0, 1], hidden[:, 6])
    close(pooled["regions"][:, 0, 0], hidden[:, 7])
    close(pooled["regions"][:, 1], hidden[:, 12:14])
    empty = (pooled["expression"][:, 0], pooled["classes"][:, 0, 2], pooled["classes"][:, 1], pooled["regions"][:, 0, 1])
    assert not any(np.asarray(slot).any() for slot in empty)


def test_fine_grained_tokens_that_are_not_shared_come_from_the_first_prompt(layout):
    source = np.array(layout.source)
    source[:, [7, 12]] = S.FINE_GRAINED  # one in each prompt, none in common
    source[:, 3] = S.TEXT
    hidden = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))
    np.testing.assert_allclose(pool(hidden, layout.replace(source=source), **SIZES)["fine_grained"], hidden[:, 7:8], atol=1e-6)


def test_nothing_to_pool_gives_zeros_and_finite_gradients(layout):
    empty = layout.replace(source=np.zeros_like(layout.source))
    total = lambda h: sum(x.sum() for x in pool(h, empty, **SIZES).values())
    value, gradient = jax.value_and_grad(total)(jnp.ones((BATCH, LENGTH, WIDTH)))
    assert value == 0 and not np.asarray(gradient).any()
