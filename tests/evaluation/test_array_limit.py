"""Programs whose arrays exceed the limit `array` are refused before they run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.array_limit import limit_arrays
from hyperseg_jax.evaluation.engine import _jit_selection
from hyperseg_jax.parallel.feed import SINGLE_PROCESS
from hyperseg_jax.systems import system as systems
from hyperseg_jax.untrusted import limits


class Wide(nn.Module):
    """Computes an array of 100 x C x C numbers for each image, inside a loop."""

    @nn.compact
    def __call__(self, x):
        body = lambda total, row: (total + (row[:, :, None] * x[:, None, :]).sum(), None)
        return jax.lax.scan(body, 0.0, jnp.broadcast_to(x, (3, 100, *x.shape))[:, 0])[0]


class Model(nn.Module):
    def setup(self):
        self.perceiver = Wide()

    def __call__(self, x):
        return self.perceiver(x)


@pytest.fixture
def function():
    calls = []

    def predict(params, batch, features):
        calls.append(batch["x"].shape)
        return Model().apply({}, batch["x"])

    return limit_arrays(jax.jit(predict)), calls


def test_the_largest_array_of_each_image_is_bounded(function):
    limited, _ = function
    params, batch = {"kernel": jnp.zeros(4)}, {"x": jnp.ones((2, 50))}
    with limits.temporary_limits(array=15_000):  # 3 x 100 x 2 x 50 numbers for two images
        assert limited(params, batch, {}) == limited(params, batch, {})
    with (
        limits.temporary_limits(array=14_999),
        pytest.raises(
            UserError, match=r"model\.\S*perceiver: an array of 3 x 100 x 2 x 50 for 2 images .*raise limits\.array$"
        ),
    ):
        limited(params, batch, {})
    with limits.temporary_limits(array=10):  # copies of a parameter are the size of the weights, not of the config
        assert limited({"kernel": jnp.zeros(30_000)}, batch, {}) == 5000 * 3


def test_programs_are_traced_once(function):
    limited, calls = function
    for size in (3, 3, 4, 3):
        limited({"kernel": jnp.zeros(4)}, {"x": jnp.ones((2, size))}, {})
    assert calls == [(2, 3), (2, 4)]


def test_the_selection_of_masks_is_bounded():
    """A config may ask for many regions, each with a mask as large as the image."""
    select = _jit_selection(systems.get("hyperseg").answers.find("regions"), SINGLE_PROCESS, (128, 128))
    queries, regions = 2, 64
    outputs = {
        "mask_logits": np.zeros((1, 1, 1, queries, 8, 8), np.float32),
        "region": np.zeros((1, 1, 1, queries, regions), np.float32),
        "region_valid": np.ones((1, 1, 1, regions), bool),
    }
    geometries, thresholds = np.full((1, 2, 3), 8, np.int32), np.zeros(2, np.float32)
    packed = regions * 128 * 128 // 8  # bytes
    with limits.temporary_limits(array=packed // 4):
        assert select(thresholds, (outputs, geometries))["mask"].size == packed
    with (
        limits.temporary_limits(array=packed // 4 - 1),
        pytest.raises(UserError, match=r"64 x 128 x 16 .*raise limits\.array$"),
    ):
        select(thresholds, (outputs, geometries))
