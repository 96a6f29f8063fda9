"""Sampling and resizing against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperseg_jax.ops.sampling import grid_sample, resize_bilinear


@pytest.mark.parametrize(
    ("source", "target"),
    [((5, 7), (11, 9)), ((32, 48), (8, 16)), ((64, 64), (33, 128)), ((3, 4), (1, 1)), ((1, 1), (3, 2)), ((6, 6), (6, 6))],
)
def test_resize_equals_interpolate(source, target, rng):
    x = rng.normal(size=(2, *source, 5)).astype(np.float32)
    cotangent = rng.normal(size=(2, *target, 5)).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = F.interpolate(theirs, target, mode="bilinear", align_corners=False)
    expected.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    ours, pull = jax.vjp(lambda x: resize_bilinear(x, target), jnp.asarray(x))
    np.testing.assert_allclose(ours, expected.detach().permute(0, 2, 3, 1).numpy(), atol=5e-6)
    np.testing.assert_allclose(pull(cotangent)[0], theirs.grad.permute(0, 2, 3, 1).numpy(), atol=5e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample_equals_torch(align_corners, rng):
    x = rng.normal(size=(2, 9, 13, 6)).astype(np.float32)
    points = rng.uniform(-0.2, 1.2, (2, 50, 2)).astype(np.float32)  # some fully or partly outside
    cotangent = rng.normal(size=(2, 50, 6)).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = F.grid_sample(theirs, torch.tensor(2 * points - 1)[:, :, None], align_corners=align_corners)
    expected.backward(torch.tensor(cotangent.transpose(0, 2, 1))[..., None])
    ours, pull = jax.vjp(lambda x: grid_sample(x, points, align_corners), jnp.asarray(x))
    np.testing.assert_allclose(ours, expected.detach()[..., 0].permute(0, 2, 1).numpy(), atol=5e-6)
    np.testing.assert_allclose(pull(cotangent)[0], theirs.grad.permute(0, 2, 3, 1).numpy(), atol=5e-6)


def test_coordinates_stay_float32_under_bfloat16(rng):
    x = jnp.asarray(rng.normal(size=(1, 200, 200, 1)), jnp.bfloat16)
    points = jnp.asarray(rng.random((1, 100, 2)), jnp.float32)
    exact = grid_sample(x.astype(jnp.float32), points)
    assert grid_sample(x, points).dtype == jnp.bfloat16
    np.testing.assert_allclose(grid_sample(x, points).astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)


def test_boolean_masks_can_be_sampled(rng):
    masks = rng.random((1, 8, 8, 3)) < 0.5
    points = rng.random((1, 20, 2)).astype(np.float32)
    np.testing.assert_array_equal(grid_sample(jnp.asarray(masks), points), grid_sample(jnp.asarray(masks, jnp.float32), points))
