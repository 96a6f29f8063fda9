"""Token tables: what is read is a copy in the compute dtype, and gradients are summed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.token_tables import Embedding, gather_table, multiply_table, take_rows
from hyperseg_jax.parallel import placement

HALF = Precision(compute="bfloat16", matmul="default")


def test_rows_and_products_equal_plain_ones():
    rng = np.random.default_rng(0)
    table, x = rng.normal(size=(11, 6)).astype(np.float32), rng.normal(size=(2, 3, 11)).astype(np.float32)
    ids, precision = jnp.asarray([[0, 3, 3], [10, 12, 3]]), Precision()

    def ours(table, x):
        gathered = gather_table(table, precision)
        return take_rows(gathered, ids), multiply_table(x, gathered, precision)

    plain = lambda table, x: (jnp.take(table, ids, axis=0, mode="clip"), jnp.matmul(x, table, precision="highest"))
    result, pull = jax.vjp(ours, table, x)
    expected, pull_expected = jax.vjp(plain, table, x)
    cotangent = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), expected)
    for one, other in zip((*result, *pull(cotangent)), (*expected, *pull_expected(cotangent)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_frequent_token_are_summed_in_float32():
    """1001 is no bfloat16 number, and sums of ones in bfloat16 stop at 256."""
    count = 1001
    rows = lambda table: take_rows(gather_table(table, HALF), jnp.full((count,), 3))
    products = lambda table: multiply_table(jnp.ones((count, 5)), gather_table(table, HALF), HALF)
    for function in (rows, products):
        result, pull = jax.vjp(function, jnp.ones((5, 4)))
        gradient = pull(jnp.ones_like(result))[0]
        assert result.dtype == jnp.bfloat16 and gradient.dtype == jnp.float32
        assert gradient.max() == count


@pytest.mark.parametrize("preset", ["data", "fsdp", "lora"])
def test_a_sharded_embedding_equals_one_on_a_single_device(preset):
    """tests/planning compiles one for a TPU, which gathers in bfloat16."""
    module, ids = Embedding(64, 8, HALF), jnp.arange(16).reshape(8, 2) % 5
    table = nn.unbox(module.init(jax.random.key(0), ids))["params"]["embedding"]
    loss = lambda table, ids: jnp.square(module.apply({"params": {"embedding": table}}, ids)).sum()
    expected = jax.value_and_grad(loss)(table, ids)
    placed = placement.make(preset, devices=jax.devices()[:8])
    sharding = NamedSharding(placed.mesh, axes.to_mesh_axes(("vocab", "embed"), placed.rules))
    with placement.use(placed):
        assert axes.is_sharded("vocab") == (preset != "data")
        step = jax.jit(jax.value_and_grad(loss), out_shardings=(placed.replicated, sharding))
        result = step(jax.device_put(table, sharding), jax.device_put(ids, placed.batch))
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-2)
    np.testing.assert_allclose(result[1], expected[1], rtol=1e-2, atol=1e-5)
