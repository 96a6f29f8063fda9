"""Re-identification: positives, negatives, both losses and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.losses.reidentification import (
    ReidTargets,
    assign_cheapest_queries,
    assignment_cost,
    box_overlaps,
    choose_queries,
    reidentification_loss,
)


def make_frame(seed=0, queries=40, targets=3, dims=8):
    """Returns boxes around the targets, class probabilities, targets and embeddings."""
    rng = np.random.default_rng(seed)
    expected = np.concatenate([rng.uniform(0.25, 0.75, (targets, 2)), rng.uniform(0.15, 0.35, (targets, 2))], 1)
    boxes = expected[np.arange(queries) % targets] + rng.normal(0, 0.04, (queries, 4))
    inputs = (boxes.clip(0.02, 0.98), rng.dirichlet(np.ones(5), queries), expected, rng.integers(0, 5, targets))
    embeddings = rng.standard_normal((targets + queries, dims))
    return [jnp.asarray(x, jnp.int32 if x.dtype == int else jnp.float32) for x in inputs], jnp.asarray(embeddings, jnp.float32)


choose = jax.jit(choose_queries)
loss = jax.jit(reidentification_loss)


def test_box_overlaps():
    boxes = jnp.asarray([[0.2, 0.2, 0.2, 0.2], [0.3, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    iou, giou = box_overlaps(boxes, boxes[:1])
    np.testing.assert_allclose(iou[:, 0], [1, 1 / 3, 0, 1 / 4], atol=1e-5)
    hull = 0.8**2
    np.testing.assert_allclose(giou[:, 0], [1, 1 / 3, -(hull - 0.08) / hull, 1 / 4], atol=1e-5)


def test_queries_on_a_target_are_positive_and_far_ones_negative():
    args, _ = make_frame()
    result = choose(*args, jnp.ones(3, bool))
    iou = np.asarray(box_overlaps(args[0], args[2])[0]).T
    assert result.positive.any(1).all() and not (result.positive & result.negative).any()
    assert (result.positive.sum(0) <= 1).all()
    assert iou[result.positive].min() > 0.5 and np.median(iou[result.negative]) < 0.1
    assert result.positive.any(0)[iou.max(0).argmax()]


def test_every_target_gets_a_query():
    cost = jnp.asarray([[0.0, 0.1, 0.2], [5.0, 6.0, 7.0], [8.0, 9.0, 4.0], [9.0, 9.0, 9.0]])
    matched, raised = assign_cheapest_queries(cost, jnp.zeros((4, 3)), jnp.ones(3, bool), 10)
    np.testing.assert_array_equal(matched.sum(1) > 0, True)
    assert matched[0, 0] and matched[2, 2] and matched[1, 1]
    assert (raised[0] > 1e4).all() and float(jnp.abs(raised - cost)[3].max()) == 0


def test_padding_gets_no_query():
    cost = jnp.asarray([[0.0, 0.1, -9.0], [1.0, 2.0, -9.0], [3.0, 1.0, -9.0]])
    matched, _ = assign_cheapest_queries(cost, jnp.zeros((3, 3)), jnp.array([True, True, False]), 10)
    np.testing.assert_array_equal(matched, [[True, False, False], [False, False, True], [False] * 3])


def pad_inputs(inputs, extra):
    boxes, probability, expected, labels = inputs
    return [boxes, probability, jnp.concatenate([expected, jnp.full((extra, 4), 0.99)]), jnp.pad(labels, (0, extra))]


def test_padding_changes_nothing():
    args, embeddings = make_frame()
    key = jax.random.key(0)
    valid, more_valid = jnp.ones(3, bool), jnp.arange(6) < 3
    for one, other in zip(assignment_cost(*args, valid), assignment_cost(*pad_inputs(args, 3), more_valid), strict=True):
        np.testing.assert_array_equal(one, other[:, :3])
    few = choose(*args, valid)
    more = choose(*pad_inputs(args, 3), more_valid)
    np.testing.assert_array_equal(more.positive[:3], few.positive)
    np.testing.assert_array_equal(more.negative[:3], few.negative)
    assert not more.positive[3:].any() and not more.negative[3:].any()
    one = loss(embeddings[:3], embeddings[3:], few, valid, key=key)
    keys = jnp.concatenate([embeddings[:3], jnp.full((3, 8), 7.0)])
    other = loss(keys, embeddings[3:], more, more_valid, key=key)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    assert float(abs(one[1] - other[1])) < 0.2  # different negatives are sampled
    everything = ReidTargets(more.positive, more.negative & (jnp.cumsum(more.negative, -1) <= 5))  # few enough to use all
    masks_to_planes = ReidTargets(everything.positive[:3], everything.negative[:3])
    np.testing.assert_allclose(
        loss(embeddings[:3], embeddings[3:], masks_to_planes, valid, key=key)[1],
        loss(keys, embeddings[3:], everything, more_valid, key=key)[1],
        rtol=1e-6,
    )


def test_losses_equal_their_formulas():
    rng = np.random.default_rng(1)
    query_embeddings, key_embeddings = (
        rng.standard_normal((2, 6)).astype(np.float32),
        rng.standard_normal((9, 6)).astype(np.float32),
    )
    positive, negative = np.zeros((2, 9), bool), np.ones((2, 9), bool)
    positive[0, :2], positive[1, 4] = True, True
    negative[0, :3], negative[1, 3:5] = False, False
    contrast, cosine = loss(
        query_embeddings, key_embeddings, ReidTargets(positive, negative), np.ones(2, bool), key=jax.random.key(0)
    )
    expected, squares = [], []
    for n in range(2):
        product = key_embeddings @ query_embeddings[n]
        pairs = product[negative[n]][None] - product[positive[n]][:, None]
        expected.append(np.log(1 + np.exp(pairs.astype(np.float64)).sum()))
        angle = product / np.linalg.norm(key_embeddings, axis=1) / np.linalg.norm(query_embeddings[n])
        counted = positive[n] | negative[n]
        squares.append(((angle - positive[n]) ** 2)[counted].mean())
    np.testing.assert_allclose(contrast, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(cosine, np.mean(squares), rtol=1e-5)


def test_ten_negatives_per_positive():
    query_embeddings, key_embeddings = jnp.ones((1, 4)), jnp.concatenate([jnp.ones((1, 4)), -jnp.ones((50, 4))])
    key_embeddings = key_embeddings.at[1:21].set(jnp.array([1.0, -1.0, 1.0, -1.0]))  # orthogonal: no cosine loss
    positive = (jnp.arange(51) == 0)[None]
    means = [
        float(
            loss(query_embeddings, key_embeddings, ReidTargets(positive, ~positive), jnp.ones(1, bool), key=jax.random.key(k))[
                1
            ]
        )
        * 11
        for k in range(3)
    ]
    assert all(abs(m - round(m)) < 1e-4 and 0 < m <= 10 for m in means) and len(set(map(round, means))) > 1


@pytest.mark.parametrize("nothing", ["no positive", "no target"])
def test_empty_targets_give_zeros_and_finite_gradients(nothing):
    _, embeddings = make_frame()
    positive = jnp.zeros((3, 40), bool)
    valid = jnp.full(3, nothing == "no positive")
    (contrast, _), gradient = jax.value_and_grad(
        lambda e: (lambda parts: (parts[0] + parts[1], parts[0]))(
            reidentification_loss(e[:3], e[3:], ReidTargets(positive, ~positive), valid, key=jax.random.key(0))
        ),
        has_aux=True,
    )(embeddings)
    assert np.isfinite(contrast) and np.isfinite(gradient).all()
    assert nothing == "no positive" or float(contrast) == 0
