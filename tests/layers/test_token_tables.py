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
from hyperseg_jax.llms.phi import Phi
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program
from hyperseg_jax.structs import TokenStream

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


def compile_sharded(preset, function, table, ids):
    """Compiles a function of a sharded table and token ids for eight devices. Returns it with its inputs, and the shapes of the
    arrays that it gathers or sums over devices."""
    placed = placement.make(preset, devices=jax.devices()[:8])
    sharding = NamedSharding(placed.mesh, axes.to_mesh_axes(("vocab", "embed"), placed.rules))
    inputs = jax.device_put(table, sharding), jax.device_put(ids, placed.batch)
    with placement.use(placed):
        assert axes.is_sharded("vocab") == (preset != "data")
        compiled = jax.jit(function).lower(*inputs).compile()
    instructions = [i for body in program.parse_program(compiled.as_text()).computations.values() for i in body]
    shapes = {i.shape.split("{")[0].split("[")[1] for i in instructions if i.collective}
    return compiled(*inputs), shapes


def test_a_gathered_table_is_on_every_device():
    table = jnp.arange(16.0).reshape(8, 2)
    result, shapes = compile_sharded("fsdp", lambda table, ids: gather_table(table, HALF).copy, table, jnp.arange(8))
    assert result.sharding.is_fully_replicated and shapes == {"8,2]"}


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("preset", ["data", "fsdp", "lora"])
def test_a_sharded_embedding_equals_one_on_a_single_device(preset, count):
    """tests/planning compiles one for a TPU, which gathers in bfloat16."""
    module, ids = Embedding(104, 8, HALF), jnp.arange(8 * count).reshape(8, count) % 5
    table = nn.unbox(module.init(jax.random.key(0), ids))["params"]["embedding"]
    loss = lambda table, ids: jnp.square(module.apply({"params": {"embedding": table}}, ids)).sum()
    expected = jax.value_and_grad(loss)(table, ids)
    result, _ = compile_sharded(preset, jax.value_and_grad(loss), table, ids)
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-2)
    np.testing.assert_allclose(result[1], expected[1], rtol=1e-2, atol=1e-5)
    forward = compile_sharded(preset, lambda table, ids: module.apply({"params": {"embedding": table}}, ids), table, ids)[1]
    if preset != "data":  # the table for many ids, else the rows that are read
        assert forward == {"104,8]"} if count == 8 else "104,8]" not in forward, forward


@pytest.mark.parametrize("preset", ["fsdp", "lora"])
def test_a_decoded_token_does_not_gather_the_table(preset):
    phi, batch, features = Phi(4096, 32, 64, num_layers=1, num_heads=2, rotary_fraction=0.5, precision=HALF), 8, 32
    row = jnp.broadcast_to(jnp.arange(4), (batch, 4))
    stream = TokenStream(jnp.zeros((batch, 4, features)), row, row >= 0, row, row)
    variables = nn.unbox(jax.jit(phi.init)(jax.random.key(0), stream))
    table = variables["params"]["tokens"]["embedding"]

    def decode_step(table, ids):
        given = {"params": variables["params"] | {"tokens": {"embedding": table}}}
        _, cache = phi.apply(given, stream, 1, method="prefill")
        return phi.apply(given, phi.apply(given, ids, method="embed"), ids, cache, method="step")[0]

    ids = jnp.arange(batch, dtype=jnp.int32)
    result, shapes = compile_sharded(preset, decode_step, table, ids)
    np.testing.assert_allclose(result, decode_step(table, ids), atol=0.05)
    assert "8,32]" in shapes and not any("4096" in shape for shape in shapes), shapes
