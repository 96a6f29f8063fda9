"""The TPU's attention kernel, interpreted on the CPU, equals plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from hyperseg_jax.ops import fused_attention
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.ops.fused_attention import cudnn_attend, splash_attend


def causal_mask(prompt, valid):
    """Returns the mask [B, 1, L, L] of packed prompts with these numbers; 0: shared by all. valid: False for padding."""
    length = prompt.shape[1]
    own_or_shared = (prompt[:, None, :] == prompt[:, :, None]) | (prompt[:, None, :] == 0)
    return (np.tril(np.ones((length, length), bool)) & valid[:, None] & own_or_shared)[:, None]


def packed_case(length):
    """Returns the mask of two rows: three prompts with padding, and a single prompt."""
    prompt, valid = np.zeros((2, length), np.int32), np.ones((2, length), bool)
    start = length // 2
    for number, stop in enumerate((start + 20, start + 70, start + 81), 1):
        prompt[0, start:stop], start = number, stop
    valid[0, start:] = False
    prompt[1] = 1
    return causal_mask(prompt, valid)


@pytest.mark.parametrize(("length", "heads", "width"), [(300, 2, 80), (256, 1, 64), (129, 3, 72)])
def test_outputs_and_gradients_equal_those_of_plain_attention(length, heads, width):
    rng = np.random.default_rng(0)
    query, key, value, cotangent = rng.normal(size=(4, 2, length, heads, width)).astype(np.float32)
    mask = packed_case(length)

    def run(function, **options):
        result, pull = jax.vjp(lambda *inputs: function(*inputs, **options), query, key, value)
        return result, *pull(jnp.asarray(cotangent))

    expected = run(attend, mask=mask)
    for ours, theirs in zip(run(splash_attend, mask=jnp.asarray(mask), interpret=True), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def primitives(jaxpr):
    """Returns the names of the primitives of a jaxpr at any depth, but not those inside kernels."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(equation.params):
                yield from primitives(inner)


def test_all_rows_and_heads_are_one_call():
    """A loop over rows, as jax.vmap makes one, would copy each row."""
    x, mask = jax.ShapeDtypeStruct((3, 256, 2, 64), jnp.bfloat16), jax.ShapeDtypeStruct((3, 1, 256, 256), bool)
    total = lambda *inputs: splash_attend(*inputs).astype(jnp.float32).sum()
    names = list(primitives(jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(x, x, x, mask).jaxpr))
    assert names.count("pallas_call") == 3  # outputs, gradients of queries, gradients of keys and values
    assert not {"scan", "while"} & set(names)


def test_many_rows_are_several_calls(monkeypatch):
    """The tables of all heads and rows of a call have to fit into the scalar memory."""
    query, key, value = np.random.default_rng(3).normal(size=(3, 3, 256, 2, 64)).astype(np.float32)
    mask = jnp.asarray(np.concatenate([packed_case(256), packed_case(256)[:1]]))
    once = splash_attend(query, key, value, mask, interpret=True)
    monkeypatch.setattr(fused_attention, "TABLE_BYTES", 4 * 2048)  # two rows
    traced = jax.make_jaxpr(splash_attend)(query, key, value, mask)
    assert list(primitives(traced.jaxpr)).count("pallas_call") == 2
    np.testing.assert_array_equal(splash_attend(query, key, value, mask, interpret=True), once)


def test_the_mask_is_used():
    query, key, value = np.random.default_rng(1).normal(size=(3, 1, 256, 1, 64)).astype(np.float32)
    causal = jnp.asarray(causal_mask(np.ones((1, 256), np.int32), np.ones((1, 256), bool)))
    hidden = causal.at[..., 100].set(False).at[..., 100, 100].set(True)
    before, after = (splash_attend(query, key, value, mask, interpret=True) for mask in (causal, hidden))
    np.testing.assert_array_equal(before[:, :101], after[:, :101])
    assert np.abs(np.asarray(before - after))[0, 101:].max(-1).min() > 1e-6
    np.testing.assert_allclose(after, attend(query, key, value, mask=hidden), rtol=1e-5, atol=1e-5)


def test_rows_without_any_key_are_finite():
    """Such as the padding rows of a batch, whose losses are zero."""
    query, key, value = np.random.default_rng(1).normal(size=(3, 2, 256, 1, 64)).astype(np.float32)
    mask = jnp.asarray(packed_case(256)).at[0].set(False)

    def loss(query, key, value):
        result = splash_attend(query, key, value, mask, interpret=True)
        return jnp.where(jnp.arange(2)[:, None, None, None] == 1, result, 0).sum(), result

    (_, result), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
    np.testing.assert_allclose(result[0], value[0], rtol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and not gradient[0].any()


def test_bfloat16_differs_by_rounding():
    query, key, value = (
        jnp.asarray(x, jnp.bfloat16) for x in np.random.default_rng(2).normal(size=(3, 2, 300, 2, 80)).astype(np.float32)
    )
    mask = jnp.asarray(packed_case(300))
    exact = attend(*(x.astype(jnp.float32) for x in (query, key, value)), mask=mask)
    error = lambda result: float(jnp.abs(result.astype(jnp.float32) - exact).max())
    fused = splash_attend(query, key, value, mask, interpret=True)
    assert fused.dtype == jnp.bfloat16
    assert error(fused) <= 1.5 * error(attend(query, key, value, mask=mask))


def test_gradients_in_bfloat16_differ_by_rounding():
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in np.random.default_rng(4).normal(size=(4, 2, 300, 2, 80))]
    mask = jnp.asarray(packed_case(300))

    def gradients(function, *inputs, **options):
        *inputs, cotangent = inputs
        return jax.vjp(lambda *inputs: function(*inputs, mask=mask, **options), *inputs)[1](cotangent)

    exact = gradients(attend, *(x.astype(jnp.float32) for x in inputs))
    errors = lambda results: [
        float(jnp.sqrt(jnp.square(result.astype(jnp.float32) - right).mean()))
        for result, right in zip(results, exact, strict=True)
    ]
    ours, plain = gradients(splash_attend, *inputs, interpret=True), gradients(attend, *inputs)
    assert {result.dtype for result in ours} == {jnp.dtype(jnp.bfloat16)}
    for error, other, right in zip(errors(ours), errors(plain), exact, strict=True):
        assert error <= min(1.25 * other, 0.01 * float(jnp.sqrt(jnp.square(right).mean())))


@pytest.mark.parametrize("length", [256, 301])
def test_cudnn_gets_the_same_mask(length, monkeypatch):
    """JAX's other implementation of the same function, with the arguments of cuDNN's."""
    real = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *inputs, implementation, **options: real(*inputs, implementation="xla", **options),
    )
    query, key, value, cotangent = np.random.default_rng(5).normal(size=(4, 2, length, 2, 64)).astype(np.float32)
    mask = jnp.asarray(packed_case(length))

    def run(function):
        result, pull = jax.vjp(lambda *inputs: function(*inputs, mask=mask), query, key, value)
        return result, *pull(jnp.asarray(cotangent))

    with jax.default_matmul_precision("highest"):
        for ours, theirs in zip(run(cudnn_attend), run(attend), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
