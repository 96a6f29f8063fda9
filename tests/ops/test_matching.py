"""Matching against scipy's float64 solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from hyperseg_jax.ops.matching import hungarian

SIZES = [(1, 1), (3, 5), (7, 30), (20, 8), (50, 64), (100, 20), (100, 100)]
match = jax.jit(jax.vmap(hungarian))


def random_costs(kind, rng, shape):
    batch, queries, targets = shape
    noise = rng.random(shape)
    if kind == "correlated":
        return (rng.random((batch, queries, 1)) * rng.random((batch, 1, targets)) + 1e-3 * noise).astype(np.float32)
    if kind == "tied":
        return rng.integers(0, 4, shape).astype(np.float32)
    if kind == "negative":
        return (rng.normal(size=shape) * 10 - 30).astype(np.float32)
    return noise.astype(np.float32)


def check_matching(cost, valid, query_of_target):
    """Asserts a one-to-one matching of maximal size with scipy's total cost."""
    columns = np.flatnonzero(valid)
    rows, picked = linear_sum_assignment(cost[:, columns].astype(np.float64))
    result = query_of_target >= 0
    assert not result[~valid].any()
    assert result.sum() == len(rows) == len(set(query_of_target[result]))
    best = cost.astype(np.float64)[rows, columns[picked]].sum()
    ours = cost.astype(np.float64)[query_of_target[result], np.flatnonzero(result)].sum()
    assert ours == pytest.approx(best, rel=1e-6, abs=1e-12)
    return dict(zip(columns[picked], rows, strict=True))


@pytest.mark.parametrize("kind", ["random", "correlated", "tied", "negative"])
@pytest.mark.parametrize("size", SIZES)
def test_total_cost_equals_scipy(kind, size, rng):
    cost = random_costs(kind, rng, (6, *size))
    valid = rng.random((6, size[1])) < 0.8
    for case in zip(cost, valid, np.asarray(match(cost, valid)), strict=True):
        check_matching(*case)


@pytest.mark.parametrize("size", SIZES)
def test_pairs_equal_scipy(size, rng):
    cost = rng.random((4, *size)).astype(np.float32)  # continuous costs: the optimum is almost surely unique
    valid = np.ones((4, size[1]), bool)
    for one, mask, ours in zip(cost, valid, np.asarray(match(cost, valid)), strict=True):
        assert {t: q for t, q in enumerate(ours) if q >= 0} == check_matching(one, mask, ours)


def test_padding_changes_nothing(rng):
    cost = rng.random((9, 4)).astype(np.float32)
    alone = hungarian(cost, np.ones(4, bool))
    padded = hungarian(np.concatenate([cost, np.full((9, 5), -1e3, np.float32)], 1), np.arange(9) < 4)
    np.testing.assert_array_equal(padded, [*alone, -1, -1, -1, -1, -1])


def test_no_target():
    assert hungarian(np.zeros((4, 0), np.float32), np.zeros(0, bool)).shape == (0,)
    np.testing.assert_array_equal(hungarian(np.zeros((4, 3), np.float32), np.zeros(3, bool)), [-1, -1, -1])
    np.testing.assert_array_equal(hungarian(np.zeros((0, 3), np.float32), np.ones(3, bool)), [-1, -1, -1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [(6, 4), (4, 6)])
def test_non_finite_costs_are_avoided(bad, size, rng):
    cost = rng.random(size).astype(np.float32)
    cost[1] = bad
    cost[2, 3] = bad
    ours = np.asarray(hungarian(cost, np.ones(size[1], bool)))
    assert len(set(ours[ours >= 0])) == min(size)
    assert size[0] < size[1] or 1 not in ours  # with spare queries, the bad one is unused
    assert (np.asarray(hungarian(np.full(size, bad), np.ones(size[1], bool))) >= 0).sum() == min(size)


def test_huge_and_tiny_costs_terminate():
    for scale in (1e38, 1e-38):
        ours = np.asarray(hungarian(np.eye(5, dtype=np.float32) * -scale, np.ones(5, bool)))
        assert sorted(ours) == [0, 1, 2, 3, 4]


def test_narrow_dtypes_are_matched_in_float32(rng):
    cost = jnp.asarray(rng.random((6, 3)), jnp.bfloat16)
    check_matching(np.asarray(cost, np.float32), np.ones(3, bool), np.asarray(hungarian(cost, jnp.ones(3, bool))))
