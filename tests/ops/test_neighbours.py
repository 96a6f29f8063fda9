"""Nearest cells by chunks: the same cells, without the matrix of all similarities."""

import jax
import numpy as np
import pytest

from hyperseg_jax.ops import neighbours

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((11, 5), np.float32)
VALID = np.arange(11) % 4 != 1


@pytest.mark.parametrize("chunk", [3, 11, 100])
@pytest.mark.parametrize("valid", [None, VALID])
def test_chunks_find_the_most_similar_cells(chunk, valid, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    similarity = np.where(True if valid is None else valid, unit @ unit.T, -np.inf)
    expected = np.argsort(-similarity, axis=1, kind="stable")
    np.testing.assert_array_equal(neighbours.nearest_cells(FEATURES, 4, valid), expected[:, :4])
    all_cells = np.asarray(neighbours.nearest_cells(FEATURES, 20, valid))  # more than there are
    assert all_cells.shape == (11, 11)
    if valid is not None:
        expected[:, valid.sum() :] = expected[:, :1]
    np.testing.assert_array_equal(all_cells, expected)


@pytest.mark.parametrize("cells", [2000, 4096])
def test_similarities_are_not_all_in_memory(cells):
    features = jax.ShapeDtypeStruct((cells, 8), np.float32)
    compiled = jax.jit(neighbours.nearest_cells, static_argnums=1).lower(features, 3).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * (neighbours.CHUNK + 100) * cells


def test_smoothing_averages_each_round():
    nearest = np.array([[0, 1], [1, 0], [2, 1]], np.int32)
    start = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    matrix = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    for rounds in (0, 1, 5):
        expected = np.linalg.matrix_power(matrix, rounds) @ start
        np.testing.assert_allclose(neighbours.smooth(start, nearest, rounds), expected, rtol=1e-6)
