"""Neighbours of cells, found some rows at a time, and the probabilities that are averaged over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax import jaxprs
from hyperseg_jax.ops import neighbours
from hyperseg_jax.ops.neighbours import nearest_cells, smooth


def draw(count=40, channels=6):
    return np.random.default_rng(0).standard_normal((count, channels), np.float32)


def expected(features, count, valid):
    """Returns the valid cells with the largest cosines, by sorting all of them."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.argsort(np.where(valid, -(unit @ unit.T), np.inf), axis=1)[:, :count]


@pytest.mark.parametrize("chunk", [1024, 40, 16, 7])
def test_chunks_find_the_same_cells(monkeypatch, chunk):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    features, valid = draw(), np.arange(40) % 5 != 3
    np.testing.assert_array_equal(nearest_cells(features, 3), expected(features, 3, True))
    found = np.asarray(nearest_cells(features, 3, valid))
    np.testing.assert_array_equal(found, expected(features, 3, valid))
    assert valid[found].all()
    np.testing.assert_array_equal(found[valid, 0], np.flatnonzero(valid), "each cell is the most similar to itself")


def test_similarities_of_all_cells_are_in_chunks():
    count = 4 * neighbours.CHUNK
    find = lambda features: smooth(jnp.ones((count, 5)), nearest_cells(features, 3), 25)
    largest = jaxprs.largest_array(jax.make_jaxpr(find)(jax.ShapeDtypeStruct((count, 8), np.float32)).jaxpr)
    assert largest.shape == (neighbours.CHUNK, count)


def test_there_are_at_most_as_many_neighbours_as_cells():
    features = draw(4)
    assert np.sort(nearest_cells(features, 10)).tolist() == [[0, 1, 2, 3]] * 4
    assert nearest_cells(features, 3, np.array([False, False, True, False])).tolist() == [[2] * 3] * 4


def test_zero_and_equal_features_have_neighbours():
    features = np.concatenate([np.zeros((3, 6), np.float32), np.ones((3, 6), np.float32)])
    found = np.asarray(nearest_cells(features, 2))
    assert (found[3:] >= 3).all() and (found < 6).all()


def test_probabilities_are_means_over_the_neighbours():
    values, found = draw(5, 3), np.array([[0, 1], [1, 1], [2, 4], [3, 0], [4, 2]], np.int32)
    rounds = [values]
    for _ in range(3):
        rounds.append(rounds[-1][found].mean(axis=1))
    for k, value in enumerate(rounds):
        np.testing.assert_allclose(smooth(values, found, k), value, atol=1e-6)
    assert smooth(values.astype(jnp.bfloat16), found, 1).dtype == np.float32
