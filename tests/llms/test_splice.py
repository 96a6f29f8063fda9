import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.llms.splice import pick, pool, splice
from hyperseg_jax.structs import Layout, Source

S = Source
# (source, index, segment, prompt): a shared prefix, then two prompts, then padding
ROW = [
    (S.TEXT, 0, 0, 0),
    (S.IMAGE, 0, 0, 0),
    (S.IMAGE, 1, 0, 0),
    (S.RESAMPLED, 0, 0, 0),
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
OTHERS = (S.IMAGE, S.QUERY, S.RESAMPLED, S.REGION)
COUNTS = {S.QUERY: 2, S.RESAMPLED: 1, S.EXPRESSION: 1, S.CLASS: 3, S.REGION: 2}


def pool_embeddings(hidden, layout):
    return pool(hidden, layout, COUNTS, num_prompts=PROMPTS, shared=(S.RESAMPLED,))


@pytest.fixture
def layout():
    source, index, segment, prompt = (np.broadcast_to(np.int32(part), (BATCH, LENGTH)) for part in zip(*ROW, strict=True))
    ids = np.where(np.isin(source, (S.TEXT, S.CLASS, S.EXPRESSION)), 7, 0).astype(np.int32)
    labels, position = np.full_like(source, -100), np.broadcast_to(np.arange(LENGTH, dtype=np.int32), source.shape)
    return Layout(ids, source, index, segment, labels, source != S.PADDING, prompt, position)


@pytest.fixture
def banks():
    shapes = {
        S.TEXT: (BATCH, LENGTH),
        S.IMAGE: (BATCH, 2),
        S.QUERY: (2,),
        S.RESAMPLED: (BATCH, 1),
        S.REGION: (BATCH, PROMPTS, 2),
    }
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {name: jax.random.normal(key, (*shape, WIDTH)) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def test_each_position_is_filled_from_its_bank(layout, banks):
    stream = jax.jit(lambda layout, text, *rest: splice(layout, text, dict(zip(OTHERS, rest, strict=True))))(
        layout, banks[S.TEXT], *(banks[source] for source in OTHERS)
    )
    for b in range(BATCH):
        picked = {
            S.IMAGE: lambda at, index, prompt, b=b: banks[S.IMAGE][b, index],
            S.RESAMPLED: lambda at, index, prompt, b=b: banks[S.RESAMPLED][b, index],
            S.REGION: lambda at, index, prompt, b=b: banks[S.REGION][b, prompt - 1, index],
            S.QUERY: lambda at, index, prompt: banks[S.QUERY][index],
            S.PADDING: lambda at, index, prompt: jnp.zeros(WIDTH),
        }
        for at, (source, index, _, prompt) in enumerate(ROW):
            expected = picked[source](at, index, prompt) if source in picked else banks[S.TEXT][b, at]
            np.testing.assert_array_equal(stream.embeddings[b, at], expected, err_msg=f"{b} {at} {source.name}")
    for name, part in (("mask", stream.mask), ("position", stream.positions), ("prompt", stream.prompt)):
        np.testing.assert_array_equal(part, getattr(layout, name))


def test_pooling_takes_the_mean_of_each_segment(layout):
    hidden = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))
    pooled = jax.jit(lambda h: pool_embeddings(h, layout))(hidden)
    close = lambda ours, expected: np.testing.assert_allclose(ours, expected, atol=1e-6)
    close(pooled[S.QUERY], jnp.stack([hidden[:, 8:10], hidden[:, 14:16]], 1))
    close(pooled[S.RESAMPLED], hidden[:, 3:4])
    close(pooled[S.EXPRESSION][:, 1, 0], hidden[:, 10:12].mean(1))
    close(pooled[S.CLASS][:, 0, 0], hidden[:, 4:6].mean(1))
    close(pooled[S.CLASS][:, 0, 1], hidden[:, 6])
    close(pooled[S.REGION][:, 0, 0], hidden[:, 7])
    close(pooled[S.REGION][:, 1], hidden[:, 12:14])
    empty = (pooled[S.EXPRESSION][:, 0], pooled[S.CLASS][:, 0, 2], pooled[S.CLASS][:, 1], pooled[S.REGION][:, 0, 1])
    assert not any(np.asarray(slot).any() for slot in empty)


def test_names_without_a_segment_belong_to_no_class(layout):
    source, segment = np.array(layout.source), np.array(layout.segment)
    source[:, 4:7] = S.NAME
    segment[:, 5] = 0  # a separator with the index of the second class
    hidden = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))
    pooled = pool(hidden, layout.replace(source=source, segment=segment), {S.NAME: 3}, num_prompts=PROMPTS)[S.NAME]
    np.testing.assert_allclose(pooled[:, 0, :2], hidden[:, [4, 6]], atol=1e-6)
    assert not np.asarray(pooled[:, 0, 2]).any()


def test_unshared_resampled_tokens_use_the_first_prompt(layout):
    source = np.array(layout.source)
    source[:, [7, 12]] = S.RESAMPLED  # one in each prompt, none in the shared prefix
    source[:, 3] = S.TEXT
    hidden = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))
    np.testing.assert_allclose(pool_embeddings(hidden, layout.replace(source=source))[S.RESAMPLED], hidden[:, 7:8], atol=1e-6)


def test_empty_segments_give_zeros_and_finite_gradients(layout):
    empty = layout.replace(source=np.zeros_like(layout.source))
    total = lambda h: sum(x.sum() for x in pool_embeddings(h, empty).values())
    value, gradient = jax.value_and_grad(total)(jnp.ones((BATCH, LENGTH, WIDTH)))
    assert value == 0 and not np.asarray(gradient).any()


def test_picked_states_are_those_of_each_prompt(layout):
    hidden = np.random.default_rng(0).normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
    picked = pick(jnp.asarray(hidden), layout, S.EXPRESSION, 3, num_prompts=PROMPTS)
    assert picked.shape == (BATCH, PROMPTS, 3, WIDTH)
    np.testing.assert_array_equal(picked[:, 1, :2], hidden[:, 10:12])
    assert not picked[:, 0].any() and not picked[:, 1, 2].any()  # the first prompt has none, the second has two
