import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperseg_jax.connectors import fine_grained_perceiver, perceiver
from hyperseg_jax.structs import Pyramid

PLAIN = fine_grained_perceiver.FineGrainedPerceiver(
    llm_size=10, num_levels=2, hidden_size=8, num_queries=4, num_heads=2, head_dim=3, mlp_ratio=2
)
GATED = PLAIN.clone(gate="tanh")
BOTH = PLAIN.clone(gate="tanh", gate_feed_forward=True)


def make_pyramid(seed):
    sizes = ((8, 8, 4), (4, 6, 6), (2, 3, 5))
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    return Pyramid(tuple(jax.random.normal(key, (2, *size)) for key, size in zip(keys, sizes, strict=True)), (4, 8, 16))


@functools.cache
def init_params(model):
    return nn.unbox(jax.jit(model.init)(jax.random.key(1), make_pyramid(0))["params"])


@functools.partial(jax.jit, static_argnums=0)
def run_residual(model, params, image):
    return model.apply({"params": params}, image, method="residual_stack")


def test_gated_stack_is_initially_the_identity():
    params = init_params(BOTH)
    query = np.broadcast_to(params["query"], (2, 4, 8))
    np.testing.assert_array_equal(run_residual(BOTH, params, make_pyramid(0)), query)


def test_gated_attention_is_initially_zero():
    params = init_params(GATED)
    blind = run_residual(GATED, params, make_pyramid(0))
    np.testing.assert_array_equal(blind, run_residual(GATED, params, make_pyramid(1)))  # the image has no effect yet
    assert np.abs(blind - params["query"]).max() > 1e-2  # the ungated feed-forward residual is active
    plain = init_params(PLAIN)
    assert np.abs(run_residual(PLAIN, plain, make_pyramid(0)) - run_residual(PLAIN, plain, make_pyramid(1))).max() > 1e-2


@pytest.mark.parametrize("model", [GATED, BOTH], ids=["attention", "both"])
def test_every_gate_parameter_is_trained(model):
    start = params = init_params(model)
    tx = optax.adam(0.01)  # SGD steps can be lost in float32 rounding
    state = tx.init(params)
    target = jax.random.normal(jax.random.key(3), (2, 4, 10))

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: jnp.mean((model.apply({"params": p}, make_pyramid(0)) - target) ** 2))(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state

    for _ in range(2):
        params, state = step(params, state)
    gates = [(layer, gate) for layer in ("layers_0", "layers_1") for gate in start[layer] if gate.startswith("gate")]
    assert len(gates) == (2 if model is GATED else 4)
    for layer, gate in gates:
        moved = jax.tree.map(lambda a, b: np.asarray(a != b).all(), params[layer][gate], start[layer][gate])
        assert all(jax.tree.leaves(moved)), (layer, gate, moved)


def test_gate_is_per_channel():
    gate = perceiver.Gate(PLAIN.precision)
    x = jax.random.normal(jax.random.key(0), (3, 8))
    params = nn.unbox(gate.init(jax.random.key(1), x)["params"])
    assert not params["down"]["kernel"].any() and not params["down"]["bias"].any() and params["up"]["kernel"].any()
    params["down"]["bias"] = jnp.zeros(8).at[2].set(0.5)
    expected = np.zeros((3, 8))
    expected[:, 2] = np.tanh(0.5) * x[:, 2]
    np.testing.assert_allclose(gate.apply({"params": params}, x), expected, atol=1e-6)


def test_memory_query_replaces_the_learned_one():
    params = init_params(PLAIN)
    bound = PLAIN.bind({"params": params})
    np.testing.assert_array_equal(bound(make_pyramid(0)), bound(make_pyramid(0), jnp.broadcast_to(params["query"], (2, 4, 8))))
    query = bound.next_query(bound(make_pyramid(0)))
    assert query.shape == (2, 4, 8)
    assert np.abs(bound(make_pyramid(0), query) - bound(make_pyramid(0))).max() > 1e-2


@pytest.mark.parametrize("model", [PLAIN, GATED, BOTH], ids=["plain", "gated", "both"])
def test_table_round_trip(model):
    params = init_params(model)
    table = fine_grained_perceiver.table(model)
    published = table.to_torch(params)
    assert published["mgvp_layers.layers.1.0.to_kv.weight"].shape == (12, 8)
    assert ("mgvp_layers.layers.0.gate.2.weight" in published) == (model is not PLAIN)
    chex.assert_trees_all_equal(table.to_flax(published, params), params)


def test_invalid_settings_are_reported():
    with pytest.raises(ValueError, match="tanh, none"):
        jax.eval_shape(PLAIN.clone(gate="sigmoid").init, jax.random.key(0), make_pyramid(0))
    with pytest.raises(ValueError, match="gate_feed_forward"):
        jax.eval_shape(PLAIN.clone(gate_feed_forward=True).init, jax.random.key(0), make_pyramid(0))
    with pytest.raises(ValueError, match="needs 4 levels"):
        jax.eval_shape(PLAIN.clone(num_levels=4).init, jax.random.key(0), make_pyramid(0))
