import functools

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from hyperseg_jax.encoders import siglip

TINY = siglip.Siglip(image_size=12, patch_size=4, hidden_size=8, mlp_size=12, num_layers=3, num_heads=2)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(0), (2, 12, 12, 3))


@pytest.fixture(scope="module")
def params(image):
    return nn.unbox(jax.jit(TINY.clone(keep_unused=True).init)(jax.random.key(1), image)["params"])


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, image):
    return model.apply({"params": params}, image)


def test_feature_layer_selects_the_hidden_state(params, image):
    full = TINY.clone(keep_unused=True)
    feature, hidden = jax.jit(lambda p: full.apply({"params": p}, image, all_hidden=True))(params)
    assert len(hidden) == 4
    np.testing.assert_array_equal(feature, hidden[2])
    published = siglip.table(full).to_torch(params)
    for layer, state in ((0, 0), (1, 1), (-1, 3), (3, 3)):
        model = full.clone(feature_layer=layer)
        repeated = siglip.table(model).to_flax(published)
        np.testing.assert_allclose(run(model, repeated, image), hidden[state], atol=1e-5)


def test_unused_weights_have_no_effect_and_are_exported(params, image):
    used = {name: value for name, value in params.items() if not name.startswith("unused")}
    np.testing.assert_array_equal(run(TINY, used, image), run(TINY.clone(keep_unused=True), params, image))
    assert set(nn.unbox(jax.eval_shape(TINY.init, jax.random.key(0), image))["params"]) == set(used)
    published = siglip.table(TINY.clone(keep_unused=True)).to_torch(params)
    assert published["vision_model.head.probe"].shape == (1, 1, 8)
    assert "vision_model.encoder.layers.2.mlp.fc1.weight" in published
    restored = siglip.table(TINY.clone(keep_unused=True)).to_flax(published, params)
    chex.assert_trees_all_equal(restored, params)


def test_invalid_sizes_and_layers_are_reported(image):
    with pytest.raises(ValueError, match="12 x 12"):
        TINY.init(jax.random.key(0), image[:, :8])
    with pytest.raises(ValueError, match="feature_layer = 5"):
        _ = TINY.clone(feature_layer=5).num_used
