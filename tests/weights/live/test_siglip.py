"""SigLIP beside transformers' SiglipVisionModel, with weights of either."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from hyperseg_jax.encoders.siglip import SiglipHead
from hyperseg_jax.layers.norms import LayerNorm
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.systems import system as systems

# 14 pixels are three patches of 4 and a rest, as 384 are 27 patches of 14
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
def whole(config):
    return config(clip_encoder=TOWER)


@pytest.fixture(scope="module")
def cut(config):
    """A tower that holds nothing behind its feature."""
    return config(clip_encoder=TOWER | {"keep_unused": False})


def tower(config):
    return systems.get("hyperseg").build(config).clip_encoder


def shapes(config):
    return nn.unbox({"clip_encoder": jax.eval_shape(tower(config).init, jax.random.key(0), IMAGE)["params"]})


def ours(config, params):
    return jax.jit(lambda p: tower(config).apply({"params": p}, IMAGE, all_hidden=True))(params["clip_encoder"])


def theirs(model):
    import torch

    with torch.no_grad():
        return model(pixel_values=torch.tensor(IMAGE).permute(0, 3, 1, 2), output_hidden_states=True)


def pooled(params, hidden):
    """The pooling head, which our tower holds and never runs."""
    normed = LayerNorm(1e-6).apply({"params": params["unused_norm"]}, hidden)
    return normed, SiglipHead(2, 20, 1e-6, Precision()).apply({"params": params["unused_head"]}, normed)


def same(close, config, params, model):
    feature, hidden = ours(config, params)
    out = theirs(model)
    assert len(hidden) == len(out.hidden_states) == 4
    for one, other in zip(hidden, out.hidden_states, strict=True):
        close(one, other)
    close(feature, out.hidden_states[-2])
    normed, pool = pooled(params["clip_encoder"], hidden[-1])
    close(normed, out.last_hidden_state)
    close(pool, out.pooler_output)


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
def siglip(random_torch):
    from transformers import SiglipVisionModel

    return random_torch(SiglipVisionModel(vision_config()))


def test_their_weights_in_ours(siglip, whole, tmp_path, read_part, close):
    siglip.save_pretrained(tmp_path)
    same(close, whole, read_part("siglip", whole, tmp_path, shapes(whole)), siglip)


def test_our_weights_in_theirs(whole, tmp_path, random_ours, write_part, read_part, open_whole, close):
    from transformers import SiglipVisionModel

    params = random_ours(shapes(whole))
    write_part("siglip", whole, params, tmp_path / "ours")
    model = open_whole(SiglipVisionModel, tmp_path / "ours")
    same(close, whole, params, model)
    model.save_pretrained(tmp_path / "again")
    chex.assert_trees_all_equal(read_part("siglip", whole, tmp_path / "again"), params)


def test_a_tower_cut_short_has_the_feature_as_its_last_state(siglip, cut, tmp_path, read_part, write_part, open_whole, close):
    from transformers import SiglipVisionModel

    siglip.save_pretrained(tmp_path / "theirs")
    params = read_part("siglip", cut, tmp_path / "theirs", shapes(cut))
    feature, _ = ours(cut, params)
    close(feature, theirs(siglip).hidden_states[-2])
    write_part("siglip", cut, params, tmp_path / "ours")
    out = theirs(open_whole(SiglipVisionModel, tmp_path / "ours"))
    close(feature, out.hidden_states[-1])
    assert len(out.hidden_states) == 3 and out.pooler_output is None


def test_the_tower_of_a_whole_siglip(whole, tmp_path, random_torch, read_part, close):
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
    model = random_torch(SiglipModel(SiglipConfig(text_config=text, vision_config=vision_config().to_dict())))
    model.save_pretrained(tmp_path)
    model.vision_model.set_attn_implementation("eager")
    same(close, whole, read_part("siglip", whole, tmp_path, shapes(whole)), model.vision_model)


def test_bits_survive(siglip, whole, round_trip):
    round_trip("siglip", whole, siglip)
