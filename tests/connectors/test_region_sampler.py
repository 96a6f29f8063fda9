import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.connectors.region_sampler import RegionSampler, covered_cells
from hyperseg_jax.ops.sampling import grid_sample

SAMPLER, GRID = RegionSampler(), 5


@pytest.fixture
def features():
    return jax.random.normal(jax.random.key(0), (2, GRID * GRID, 6))


def expected_cells(mask):
    height, width = mask.shape
    return sorted({(y * GRID // height, x * GRID // width) for y, x in np.argwhere(mask)})


def interpolate_cells(features, y, x):
    """Bilinear interpolation with the grid's corners at cell centres: cell c is at c / GRID of the way to the last one."""
    (y0, fy), (x0, fx) = ((int(c * (GRID - 1) / GRID), c * (GRID - 1) / GRID % 1) for c in (y, x))
    grid = np.asarray(features).reshape(GRID, GRID, -1)
    y1, x1 = min(y0 + 1, GRID - 1), min(x0 + 1, GRID - 1)
    upper = grid[y0, x0] * (1 - fx) + grid[y0, x1] * fx
    lower = grid[y1, x0] * (1 - fx) + grid[y1, x1] * fx
    return upper * (1 - fy) + lower * fy


@pytest.mark.parametrize("size", [(20, 20), (17, 23), (5, 5), (4, 3)])
def test_mean_over_covered_cells(features, size):
    masks = np.random.default_rng(0).random((2, 3, *size)) < 0.1
    masks[:, :, 1, 2] = True
    pooled = SAMPLER(features, jnp.asarray(masks), jnp.ones((2, 3), bool))
    for b in range(2):
        for r in range(3):
            cells = expected_cells(masks[b, r])
            assert [tuple(c) for c in np.argwhere(covered_cells(jnp.asarray(masks[b, r]), GRID))] == cells
            expected = np.mean([interpolate_cells(features[b], *cell) for cell in cells], axis=0)
            np.testing.assert_allclose(pooled[b, r], expected, atol=1e-6)


def test_given_points_are_sampled(features):
    points = jax.random.uniform(jax.random.key(1), (2, 3, 7, 2))
    pooled = SAMPLER(features, jnp.zeros((2, 3, 8, 8), bool), jnp.ones((2, 3), bool), points)
    sampled = grid_sample(features.reshape(2, GRID, GRID, 6), points.reshape(2, 21, 2), align_corners=True)
    np.testing.assert_allclose(pooled, sampled.reshape(2, 3, 7, 6).mean(2), atol=1e-6)


def test_empty_and_invalid_regions_give_zeros(features):
    masks = jnp.zeros((2, 2, 9, 9), bool).at[:, 1].set(True)
    valid = jnp.array([[True, True], [True, False]])
    pooled, gradient = jax.value_and_grad(lambda f: SAMPLER(f, masks, valid).sum())(features)
    assert np.isfinite(pooled) and np.isfinite(gradient).all()
    pooled = SAMPLER(features, masks, valid)
    assert not pooled[:, 0].any() and not pooled[1, 1].any() and pooled[0, 1].any()


def test_prompts_share_image_features(features):
    masks = jax.random.bernoulli(jax.random.key(2), 0.2, (2, 3, 4, 9, 9))
    valid = jnp.ones((2, 3, 4), bool)
    pooled = SAMPLER(features, masks, valid)
    assert pooled.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(pooled[:, 1], SAMPLER(features, masks[:, 1], valid[:, 1]), atol=1e-6)


def test_features_must_be_square(features):
    with pytest.raises(ValueError, match="square"):
        SAMPLER(features[:, :-1], jnp.zeros((2, 1, 4, 4), bool), jnp.ones((2, 1), bool))
