"""GPT-2 and LLaMA without PyTorch: dropout, cache, grouped heads, padding, axis names. tests/weights/live compares them with
transformers."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.linear import LoRA
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.llms import gpt2, llama
from hyperseg_jax.llms.blocks import CausalAttention, Linears
from hyperseg_jax.structs import TokenStream

GPT2 = gpt2.GPT2(20, 16, 24, 3, 2, 12, embedding_std=1.0)
LLAMA = llama.Llama(20, 16, 24, 3, 4, 2, embedding_std=1.0)
TIED = LLAMA.clone(tied=True)
MODELS = [GPT2, LLAMA, TIED]
NAMES = ["gpt2", "llama", "tied"]
INPUT = np.random.default_rng(0).normal(0, 1, (2, 7, 16)).astype(np.float32)


@functools.cache
def boxed(model):
    return jax.jit(model.init)(jax.random.key(1), TokenStream.of_text(INPUT))["params"]


def params(model):
    return nn.unbox(boxed(model))


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, params, stream, deterministic=True, key=None):
    return model.apply({"params": params}, stream, deterministic, rngs={} if key is None else {"dropout": key})


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_causal_and_padding_mask(model):
    mask = np.arange(7) < np.array([[7], [5]])
    before = run(model, params(model), TokenStream.of_text(INPUT, mask))
    changed = INPUT.copy()
    changed[:, 4] *= -1
    after = run(model, params(model), TokenStream.of_text(changed, mask))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[mask & (np.arange(7) >= 4)].max(-1) > 1e-3).all()
    shorter = run(model, params(model), TokenStream.of_text(INPUT[1:, :5]))
    np.testing.assert_allclose(before[1, :5], shorter[0], atol=1e-5)  # padding changes nothing


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_the_cache_does_not_change_logits(model):
    ids = np.random.default_rng(1).integers(0, 20, (2, 5))

    @jax.jit
    def read_all(params):
        apply = lambda *inputs, method: model.apply({"params": params}, *inputs, method=method)
        text = jnp.concatenate([INPUT, apply(ids, method="embed")], axis=1)
        return apply(model.apply({"params": params}, TokenStream.of_text(text)), method="logits")

    @jax.jit
    def read_by_token(params):
        apply = lambda *inputs, method: model.apply({"params": params}, *inputs, method=method)
        logits, cache = apply(INPUT, 5, method="begin_text")
        rows = [logits]
        for k in range(5):
            logits, cache = apply(ids[:, k], cache, method="continue_text")
            rows.append(logits)
        return jnp.stack(rows, 1), cache.keys

    logits, keys = read_by_token(params(model))
    assert keys.shape == (3, 2, 12, 2, 16 // model.num_heads)  # of grouped heads once
    np.testing.assert_allclose(logits, read_all(params(model))[:, 6:], atol=1e-5)


def test_dropout_of_gpt2():
    stream, run_with = TokenStream.of_text(INPUT), functools.partial(run, GPT2, params(GPT2), TokenStream.of_text(INPUT))
    plain, keys = run_with(True), jax.random.split(jax.random.key(0), 2)
    first = run_with(False, keys[0])
    np.testing.assert_array_equal(run_with(False, keys[0]), first)
    assert (np.abs(first - plain).max(-1) > 1e-3).all()
    assert np.abs(run_with(False, keys[1]) - first).max() > 1e-2
    np.testing.assert_array_equal(run_with(True, keys[0]), plain)
    none = GPT2.clone(dropout=0.0)
    np.testing.assert_allclose(run(none, params(GPT2), stream, False, keys[0]), plain, atol=1e-6)


def test_each_dropout_of_gpt2():
    """Where everything is dropped, the embeddings are zero, a layer returns its input, and attention the bias of its output."""
    rng, variables = {"dropout": jax.random.key(0)}, {"params": params(GPT2)}
    all_dropped = GPT2.clone(dropout=1.0)
    _, hidden = all_dropped.apply(variables, TokenStream.of_text(INPUT), False, all_hidden=True, rngs=rng)
    np.testing.assert_array_equal(hidden[0], 0)
    weights = jax.tree.map(lambda leaf: leaf[0] + 0.5, params(GPT2)["layers"])
    layer = gpt2.GPT2Layer(2, 24, 1e-5, 1.0, Precision(), False, "nothing")
    mask = np.ones((2, 1, 7, 7), bool)
    np.testing.assert_array_equal(layer.apply({"params": weights}, INPUT, None, mask, rngs=rng)[0], INPUT)
    attention = CausalAttention(2, Linears(Precision()), False, dropout=1.0)
    attended, _ = attention.apply({"params": weights["attention"]}, INPUT, None, mask, rngs=rng)
    np.testing.assert_array_equal(attended, np.broadcast_to(weights["attention"]["out"]["bias"], INPUT.shape))


def test_a_text_beyond_the_positions_of_gpt2_is_refused():
    with pytest.raises(UserError, match="13 positions of text, of which up to 12 are possible"):
        GPT2.apply({"params": params(GPT2)}, INPUT, 6, method="begin_text")
    with pytest.raises(UserError, match="14 positions"):
        GPT2.apply({"params": params(GPT2)}, TokenStream.of_text(np.tile(INPUT, (1, 2, 1))))
    with pytest.raises(UserError, match="15 positions"):
        _, cache = GPT2.apply({"params": params(GPT2)}, INPUT, 0, method="begin_text")
        GPT2.apply({"params": params(GPT2)}, TokenStream.of_text(INPUT), 1, cache, method="prefill")


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_remat_keeps_gradients(model):
    def gradient(model):
        loss = lambda p: jnp.sum(jnp.sin(run(model, p, TokenStream.of_text(INPUT), False, jax.random.key(0))))
        return jax.jit(jax.grad(loss))(params(model))

    chex.assert_trees_all_close(gradient(model), gradient(model.clone(remat="full")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_every_parameter_has_axis_names(model):
    is_boxed = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    leaves = jax.tree.leaves(boxed(model), is_leaf=is_boxed)
    assert all(is_boxed(leaf) and len(leaf.names) == leaf.value.ndim for leaf in leaves)
    names = {name for leaf in leaves for name in leaf.names}
    assert names == {"layers", "embed", "heads", "mlp", "vocab", "norm"}
    assert ("head" in params(model)) == (model is LLAMA)


def test_bfloat16_is_close_to_float32():
    for model in MODELS:
        exact = run(model, params(model), TokenStream.of_text(INPUT))
        rounded = run(model.clone(precision=Precision(compute="bfloat16")), params(model), TokenStream.of_text(INPUT))
        assert rounded.dtype == jnp.bfloat16
        assert 1e-4 < np.abs(np.asarray(rounded, np.float32) - exact).max() < 0.1 * np.abs(exact).max()


def test_adapters_of_llama():
    adapted = LLAMA.clone(lora=LoRA(2, 4.0), lora_targets=("query", "gate", "down"))
    initial = params(adapted)
    assert initial["layers"]["mlp"]["gate"]["lora_a"].shape == (3, 16, 2)
    table = llama.table(adapted) + llama.lora_table(adapted)
    published = table.to_torch(initial)
    assert published["layers.2.mlp.down_proj.lora_B.weight"].shape == (16, 2)
    chex.assert_trees_all_equal(table.to_flax(published, initial), initial)
    assert not len(llama.lora_table(LLAMA))
    with pytest.raises(ValueError, match=r"lora_targets \['fc1'\]: use some of query, key, value, out, gate, up, down"):
        boxed(LLAMA.clone(lora_targets=("fc1",)))


def test_invalid_sizes_are_reported():
    with pytest.raises(ValueError, match="hidden_size 16 is not divisible by num_heads 3"):
        boxed(GPT2.clone(num_heads=3))
    with pytest.raises(ValueError, match="num_heads 4 is not divisible by num_kv_heads 3"):
        boxed(LLAMA.clone(num_kv_heads=3))
