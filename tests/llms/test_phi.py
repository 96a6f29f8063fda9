import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.layers.linear import LoRA
from hyperseg_jax.layers.rotary import rotary_angles, rotate
from hyperseg_jax.llms import phi
from hyperseg_jax.llms.head import LanguageHead, head_table
from hyperseg_jax.structs import TokenStream

TINY = phi.Phi(vocab_size=20, hidden_size=16, mlp_size=24, num_layers=3, num_heads=2, rotary_fraction=0.5)
ADAPTED = TINY.clone(lora=LoRA(rank=2, alpha=4.0, dropout=0.5), lora_targets=("query", "value", "up"))


def make_stream(seed=0, length=7):
    embeddings = jax.random.normal(jax.random.key(seed), (2, length, 16))
    mask = np.ones((2, length), bool)
    mask[1, 5:] = False
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (2, length))
    return TokenStream(embeddings, positions, mask, np.ones((2, length), np.int32))


@functools.cache
def init_params(model):
    return nn.unbox(jax.jit(model.init)(jax.random.key(1), make_stream())["params"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, params, tokens, deterministic=True):
    return model.apply({"params": params}, tokens, deterministic, rngs={"dropout": jax.random.key(9)})


def test_causal_and_padding_mask():
    tokens, params = make_stream(), init_params(TINY)
    before = run(TINY, params, tokens)
    later = tokens.replace(embeddings=tokens.embeddings.at[:, 4].multiply(-1.0))
    after = run(TINY, params, later)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(-1) > 1e-3).all()
    hidden = tokens.replace(mask=np.asarray(tokens.mask) & (np.arange(7) != 2))
    moved = np.abs(run(TINY, params, hidden) - before).max(-1)
    np.testing.assert_array_equal(moved[:, :2], 0)
    assert (moved[:, 3:] > 1e-4).all()


def test_packed_prompts_attend_to_the_prefix_and_themselves():
    params, tokens = init_params(TINY), make_stream().replace(mask=np.ones((2, 7), bool))
    alone = []
    for at in ([0, 1, 2, 3, 4], [0, 1, 2, 5, 6]):
        prompt = jax.tree.map(lambda x, at=at: x[:, np.array(at)], tokens)
        alone.append(run(TINY, params, prompt.replace(positions=tokens.positions[:, :5])))
    packed = tokens.replace(
        positions=np.broadcast_to(np.int32([0, 1, 2, 3, 4, 3, 4]), (2, 7)),
        prompt=np.broadcast_to(np.int32([0, 0, 0, 1, 1, 2, 2]), (2, 7)),
    )
    together = run(TINY, params, packed)
    np.testing.assert_allclose(together[:, :5], alone[0], atol=1e-5)
    np.testing.assert_allclose(together[:, 5:], alone[1][:, 3:], atol=1e-5)


def test_scan_equals_loop():
    tokens, params = make_stream(), init_params(TINY)
    angles = rotary_angles(tokens.positions, 4)
    mask = np.tril(np.ones((7, 7), bool)) & np.asarray(tokens.mask)[:, None, None, :]
    x = tokens.embeddings
    layer = phi.PhiLayer(2, 24, 1e-5, None, (), TINY.precision, True, "nothing")
    for i in range(3):
        x, _ = layer.apply({"params": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])}, x, angles, mask)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)  # an initialized norm has scale 1 and bias 0
    np.testing.assert_allclose(run(TINY, params, tokens), x, atol=1e-5)


def test_rotary_embedding_depends_on_the_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    at = lambda x, position: rotate(x, rotary_angles(jnp.array([[position]]), 6))[0, 0, 0]
    np.testing.assert_allclose(at(q, 9) @ at(k, 4), at(q, 25) @ at(k, 20), rtol=1e-5)
    assert abs(at(q, 9) @ at(k, 4) - at(q, 9) @ at(k, 5)) > 1e-3
    np.testing.assert_array_equal(at(q, 9)[6:], q[0, 0, 0, 6:])


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_keeps_gradients(remat):
    def gradient(model):
        loss = lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, make_stream())))
        return jax.jit(jax.grad(loss))(init_params(TINY))

    chex.assert_trees_all_close(gradient(TINY), gradient(TINY.clone(remat=remat)), rtol=1e-4, atol=1e-5)


def test_initial_adapters_are_the_identity_and_trainable():
    params = init_params(ADAPTED)
    for deterministic in (True, False):
        plain = run(TINY, init_params(TINY), make_stream())
        np.testing.assert_allclose(run(ADAPTED, _with_base(params), make_stream(), deterministic), plain, atol=1e-6)
    params = jax.tree_util.tree_map_with_path(lambda path, x: x + 0.1 if "lora_b" in str(path) else x, _with_base(params))
    adapted = run(ADAPTED, params, make_stream())
    assert np.abs(adapted - plain).max() > 1e-2
    assert np.abs(run(ADAPTED, params, make_stream(), False) - adapted).max() > 1e-3  # dropout is active in training


def _with_base(params):
    """Returns the adapters of `params` with the base weights of TINY."""
    base = phi.table(TINY).to_torch(init_params(TINY)) | phi.lora_table(ADAPTED).to_torch(_adapters(params))
    return (phi.table(ADAPTED) + phi.lora_table(ADAPTED)).to_flax(base, params)


def _adapters(tree):
    adapters = {k: _adapters(v) if isinstance(v, dict) else v for k, v in tree.items() if isinstance(v, dict) or "lora" in k}
    return {k: v for k, v in adapters.items() if not isinstance(v, dict) or v}


def test_tables_round_trip_with_names_of_peft():
    params = init_params(ADAPTED)
    assert params["layers"]["attention"]["query"]["lora_a"].shape == (3, 16, 2)
    assert "lora_a" not in params["layers"]["attention"]["key"] and "lora_a" in params["layers"]["mlp"]["up"]
    table = phi.table(ADAPTED) + phi.lora_table(ADAPTED)
    published = table.to_torch(params)
    assert published["layers.2.self_attn.q_proj.lora_A.weight"].shape == (2, 16)
    assert published["layers.0.mlp.fc1.lora_B.weight"].shape == (24, 2)
    assert published["layers.1.mlp.fc1.weight"].shape == (24, 16)
    chex.assert_trees_all_equal(table.to_flax(published, params), params)
    assert not any("lora" in name for row in phi.table(ADAPTED) for name in row.names)


def test_embedding_table_and_language_head():
    params = init_params(TINY)
    ids = jnp.array([[3, 19]])
    np.testing.assert_array_equal(TINY.apply({"params": params}, ids, method="embed"), params["tokens"]["embedding"][ids])
    head = LanguageHead(vocab_size=24)
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 16))
    kernel = np.random.default_rng(0).standard_normal((24, 16)).astype(np.float32)
    logits = head.apply({"params": head_table().to_flax({"lm_head.weight": kernel})}, hidden)
    np.testing.assert_allclose(logits, hidden @ kernel.T, atol=1e-5)


def test_invalid_settings_are_reported():
    with pytest.raises(ValueError, match=r"lora_targets \['q_proj'\]"):
        jax.eval_shape(TINY.clone(lora_targets=("q_proj",)).init, jax.random.key(0), make_stream())
    with pytest.raises(ValueError, match="not divisible"):
        jax.eval_shape(TINY.clone(num_heads=3).init, jax.random.key(0), make_stream())
