"""Deformable sampling against a naive sum over four corners and against PyTorch's grid_sample."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperseg_jax.ops.deformable import deformable_sampling

SHAPES = ((5, 7), (9, 13), (4, 3))


def random_inputs(rng, batch=2, queries=11, heads=3, channels=4, points=2, shapes=SHAPES):
    area = sum(h * w for h, w in shapes)
    value = rng.normal(size=(batch, area, heads, channels)).astype(np.float32)
    locations = rng.uniform(-0.3, 1.3, (batch, queries, heads, len(shapes), points, 2)).astype(np.float32)
    weights = rng.random((batch, queries, heads, len(shapes), points)).astype(np.float32)
    cotangent = rng.normal(size=(batch, queries, heads * channels)).astype(np.float32)
    return value, locations, weights, cotangent


def sample_naively(value, locations, weights, shapes=SHAPES):
    """Sums over the four corners of each point."""
    batch, queries, heads, _, points, _ = locations.shape
    out = np.zeros((batch, queries, heads, value.shape[-1]))
    start = 0
    for level, (height, width) in enumerate(shapes):
        maps = value[:, start : start + height * width].reshape(batch, height, width, heads, -1)
        start += height * width
        for b, q, h, p in itertools.product(range(batch), range(queries), range(heads), range(points)):
            x, y = locations[b, q, h, level, p].astype(np.float64) * (width, height) - 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            for row, column in itertools.product((top, top + 1), (left, left + 1)):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, q, h, level, p]
                    out[b, q, h] += share * maps[b, row, column, h]
    return out.reshape(batch, queries, -1)


def sample_with_torch(value, locations, weights, shapes=SHAPES):
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    samples = []
    for level, ((height, width), maps) in enumerate(zip(shapes, value.split([h * w for h, w in shapes], 1), strict=True)):
        maps = maps.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    mixed = (torch.cat(samples, dim=-1) * shares).sum(-1)
    return mixed.reshape(batch, heads * channels, queries).transpose(1, 2)


def test_output_equals_the_naive_sum(rng):
    value, locations, weights, _ = random_inputs(rng)
    ours = jax.jit(lambda *a: deformable_sampling(a[0], SHAPES, *a[1:]))(value, locations, weights)
    np.testing.assert_allclose(ours, sample_naively(value, locations, weights), atol=2e-6)


def test_output_and_gradients_equal_torch(rng):
    value, locations, weights, cotangent = random_inputs(rng, queries=200, points=4)
    theirs = [torch.tensor(a, requires_grad=True) for a in (value, locations, weights)]
    expected = sample_with_torch(*theirs)
    expected.backward(torch.tensor(cotangent))
    ours, pull = jax.vjp(lambda *a: deformable_sampling(a[0], SHAPES, *a[1:]), *map(jnp.asarray, (value, locations, weights)))
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-5)
    for name, gradient, tensor in zip(("value", "locations", "weights"), pull(jnp.asarray(cotangent)), theirs, strict=True):
        reference = tensor.grad.numpy()
        np.testing.assert_allclose(gradient, reference, rtol=1e-5, atol=3e-6 * np.abs(reference).max(), err_msg=name)
    outside = (locations < -0.15).any(-1) | (locations > 1.15).any(-1)  # outside the interpolation border of the smallest map
    assert outside.any()


def test_points_far_outside_give_zero(rng):
    value, locations, weights, _ = random_inputs(rng)
    far = jnp.full(locations.shape, 7.0).at[..., 0].set(-3e8)
    ours, pull = jax.vjp(lambda *a: deformable_sampling(a[0], SHAPES, *a[1:]), jnp.asarray(value), far, jnp.asarray(weights))
    assert not np.any(ours)
    assert all(not np.any(gradient) for gradient in pull(jnp.ones_like(ours)))


def test_bfloat16_values_keep_float32_coordinates(rng):
    shapes = ((100, 120),)
    value, locations, weights, _ = random_inputs(rng, shapes=shapes)
    exact = deformable_sampling(jnp.asarray(value), shapes, jnp.asarray(locations), jnp.asarray(weights))
    half = deformable_sampling(jnp.asarray(value, jnp.bfloat16), shapes, jnp.asarray(locations), jnp.asarray(weights))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=5e-2)


def test_inconsistent_levels_are_an_error(rng):
    value, locations, weights, _ = random_inputs(rng)
    with pytest.raises(ValueError, match="cells"):
        deformable_sampling(jnp.asarray(value), SHAPES[:2], jnp.asarray(locations), jnp.asarray(weights))
