"""Layer stacks and rematerialization."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from hyperseg_jax.layers.linear import Linear
from hyperseg_jax.layers.remat import apply_remat, scan_layers


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, added):
        return jnp.tanh(Linear(x.shape[-1])(x) + added)


class ThreeLayers(nn.Module):
    looped: bool
    remat: str = "none"

    @nn.compact
    def __call__(self, x, added):
        layers = [apply_remat(Layer, self.remat)(name=f"layers_{i}") for i in range(3)]
        if self.looped:
            return scan_layers(layers, x, added)
        for layer in layers:
            x = layer(x, added)
        return x


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_equals_loop(remat):
    x, added = jax.random.normal(jax.random.key(0), (2, 5, 4)), jnp.arange(4.0)
    params = nn.unbox(ThreeLayers(looped=True).init(jax.random.key(1), x, added))
    plain = nn.unbox(ThreeLayers(looped=False).init(jax.random.key(1), x, added))
    chex.assert_trees_all_equal(params, plain)  # the same names and values
    loss = lambda params, module: jnp.sum(jnp.sin(module.apply(params, x, added)))
    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected, result = gradient(params, ThreeLayers(looped=False)), gradient(params, ThreeLayers(looped=True, remat=remat))
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-6)
    text = jax.jit(ThreeLayers(looped=True, remat=remat).apply).lower(params, x, added).as_text()
    assert text.count("dot_general") == 1  # one body for all layers
