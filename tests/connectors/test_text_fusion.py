"""The two forms of the text fusion, and padding of texts."""

import jax
import numpy as np
import pytest

from hyperseg_jax.connectors.text_fusion import TextFusion

BATCH, LATENTS, WIDTH = 2, 4, 8


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    latents, features = (rng.normal(size=(BATCH, n, WIDTH)).astype(np.float32) for n in (LATENTS, 5))
    return latents, features, np.arange(LATENTS) < np.array([[4], [3]])


def fuse(form, latents, features, valid):
    fusion = TextFusion(num_layers=2, num_heads=2, head_dim=4, form=form)
    params = fusion.init(jax.random.key(0), latents, features)
    return np.asarray(fusion.apply(params, latents, features, valid, method="fuse"))


@pytest.mark.parametrize(("form", "used"), [("published", False), ("multi_granularity", True)])
def test_details_have_an_effect_in_one_form_only(form, used, inputs):
    latents, features, valid = inputs
    other = latents.copy()
    other[:, 1] *= -1  # a constant would be removed by the norms
    difference = np.abs(fuse(form, other, features, valid) - fuse(form, latents, features, valid)).max(-1)
    assert (difference > 1e-3).all() if used else not difference.any()
    assert fuse(form, latents, features, valid).shape == (BATCH, WIDTH)


def test_padding_details_have_no_effect(inputs):
    latents, features, valid = inputs
    other = latents.copy()
    other[1, 3] += 100
    both = (fuse("multi_granularity", each, features, valid) for each in (latents, other))
    np.testing.assert_array_equal(*both)


def test_unknown_forms_are_refused(inputs):
    with pytest.raises(ValueError, match="form = 'both': use one of published, multi_granularity"):
        fuse("both", *inputs)
