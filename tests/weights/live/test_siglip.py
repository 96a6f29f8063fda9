"""SigLIP against transformers' SiglipVisionModel, with imported and exported weights."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from hyperseg_jax.encoders.siglip import SiglipHead
from hyperseg_jax.layers.norms import LayerNorm
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.systems import system as systems

# 14 pixels are three patches of 4 and a remainder, like 384 pixels and 27 patches of 14
TOWER = {
    "image_size": 14,
    "patch_size": 4,
    "hidden_size": 24,
    "mlp_size": 20,
    "num_layers": 3,
    "num_heads": 2,
    "feature_layer": -2,
    "keep_unused": True,
}
IMAGE = np.random.default_rng(0).standard_normal((2, 14, 14, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def full_tower(config):
    return config(clip_encoder=TOWER)


@pytest.fixture(scope="module")
def truncated_tower(config):
    """A tower without layers after its feature layer."""
    return config(clip_encoder=TOWER | {"keep_unused": False})


def tower(config):
    return systems.get("hyperseg").build(config).clip_encoder


def shapes(config):
    return nn.unbox({"clip_encoder": jax.eval_shape(tower(config).init, jax.random.key(0), IMAGE)["params"]})


def run_ours(config, params):
    return jax.jit(lambda p: tower(config).apply({"params": p}, IMAGE, all_hidden=True))(params["clip_encoder"])


def run_theirs(model):
    import torch

    with torch.no_grad():
        return model(pixel_values=torch.tensor(IMAGE).permute(0, 3, 1, 2), output_hidden_states=True)


def pool(params, hidden):
    """The pooling head, which our tower stores but never applies."""
    normed = LayerNorm(1e-6).apply({"params": params["unused_norm"]}, hidden)
    return normed, SiglipHead(2, 20, 1e-6, Precision()).apply({"params": params["unused_head"]}, normed)


def assert_same(assert_close, config, params, model):
    feature, hidden = run_ours(config, params)
    out = run_theirs(model)
    assert len(hidden) == len(out.hidden_states) == 4
    for one, other in zip(hidden, out.hidden_states, strict=True):
        assert_close(one, other)
    assert_close(feature, out.hidden_states[-2])
    normed, pooled = pool(params["clip_encoder"], hidden[-1])
    assert_close(normed, out.last_hidden_state)
    assert_close(pooled, out.pooler_output)


def vision_config():
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        image_size=14,
        patch_size=4,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        attn_implementation="eager",
    )


@pytest.fixture
def siglip(randomize):
    from transformers import SiglipVisionModel

    return randomize(SiglipVisionModel(vision_config()))


def test_import(siglip, full_tower, tmp_path, read_part, assert_close):
    siglip.save_pretrained(tmp_path)
    assert_same(assert_close, full_tower, read_part("siglip", full_tower, tmp_path, shapes(full_tower)), siglip)


def test_export(full_tower, tmp_path, random_like, write_part, read_part, load_pretrained, assert_close):
    from transformers import SiglipVisionModel

    params = random_like(shapes(full_tower))
    write_part("siglip", full_tower, params, tmp_path / "ours")
    model = load_pretrained(SiglipVisionModel, tmp_path / "ours")
    assert_same(assert_close, full_tower, params, model)
    model.save_pretrained(tmp_path / "again")
    chex.assert_trees_all_equal(read_part("siglip", full_tower, tmp_path / "again"), params)


def test_a_truncated_tower_ends_with_the_feature(
    siglip, truncated_tower, tmp_path, read_part, write_part, load_pretrained, assert_close
):
    from transformers import SiglipVisionModel

    siglip.save_pretrained(tmp_path / "theirs")
    params = read_part("siglip", truncated_tower, tmp_path / "theirs", shapes(truncated_tower))
    feature, _ = run_ours(truncated_tower, params)
    assert_close(feature, run_theirs(siglip).hidden_states[-2])
    write_part("siglip", truncated_tower, params, tmp_path / "ours")
    out = run_theirs(load_pretrained(SiglipVisionModel, tmp_path / "ours"))
    assert_close(feature, out.hidden_states[-1])
    assert len(out.hidden_states) == 3 and out.pooler_output is None


def test_import_from_a_full_siglip(full_tower, tmp_path, randomize, read_part, assert_close):
    from transformers import SiglipConfig, SiglipModel

    text = {
        "vocab_size": 9,
        "hidden_size": 24,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = randomize(SiglipModel(SiglipConfig(text_config=text, vision_config=vision_config().to_dict())))
    model.save_pretrained(tmp_path)
    model.vision_model.set_attn_implementation("eager")
    assert_same(assert_close, full_tower, read_part("siglip", full_tower, tmp_path, shapes(full_tower)), model.vision_model)


def test_round_trip_is_bit_equal(siglip, full_tower, round_trip):
    round_trip("siglip", full_tower, siglip)
