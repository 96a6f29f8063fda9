"""Swin against transformers' SwinBackbone, with imported and exported weights."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten

SWIN = {"hidden_size": 8, "depths": (2, 1, 4), "num_heads": (1, 2, 4), "window": 4, "mlp_ratio": 2.5}
# 19 x 26 patches, then 10 x 13, 5 x 7: no level is a multiple of the window, and patch merging has odd sizes
IMAGE = np.random.default_rng(0).standard_normal((2, 75, 101, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small_config(config):
    return config(mask_encoder=SWIN)


def shapes(config):
    model = systems.get("hyperseg").build(config).mask_encoder
    return nn.unbox({"mask_encoder": jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]})


def assert_same(assert_close, config, params, model):
    import torch

    swin = systems.get("hyperseg").build(config).mask_encoder
    levels = jax.jit(lambda p: swin.apply({"params": p}, IMAGE).levels)(params["mask_encoder"])
    with torch.no_grad():
        maps = model(torch.tensor(IMAGE).permute(0, 3, 1, 2)).feature_maps
    assert [level.shape[1:3] for level in levels] == [(19, 26), (10, 13), (5, 7)]
    for level, result in zip(levels, maps, strict=True):
        assert_close(level, result.permute(0, 2, 3, 1))


@pytest.fixture
def backbone(randomize):
    """A random SwinBackbone; its last norm is never applied and keeps its initial values."""
    from transformers import SwinBackbone, SwinConfig

    model = randomize(
        SwinBackbone(
            SwinConfig(
                embed_dim=8,
                depths=[2, 1, 4],
                num_heads=[1, 2, 4],
                window_size=4,
                mlp_ratio=2.5,
                image_size=32,
                out_features=["stage1", "stage2", "stage3"],
                attn_implementation="eager",
            )
        )
    )
    model.swin.layernorm.reset_parameters()
    return model


def test_import(backbone, small_config, tmp_path, read_part, assert_close):
    backbone.save_pretrained(tmp_path)
    assert_same(assert_close, small_config, read_part("swin", small_config, tmp_path, shapes(small_config)), backbone)


def test_export(small_config, tmp_path, random_like, write_part, load_pretrained, assert_close):
    from transformers import SwinBackbone

    params = random_like(shapes(small_config))
    write_part("swin", small_config, params, tmp_path / "ours")
    assert_same(assert_close, small_config, params, load_pretrained(SwinBackbone, tmp_path / "ours"))


def test_round_trip_is_bit_equal(backbone, small_config, round_trip):
    round_trip("swin", small_config, backbone)


def test_names_in_memory_equal_those_on_disk(backbone, small_config, tmp_path, read_part):
    backbone.save_pretrained(tmp_path / "disk")
    on_disk = read_part("swin", small_config, tmp_path / "disk")
    state_dict = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    assert not load_file(tmp_path / "disk" / "model.safetensors").keys() >= state_dict.keys()
    (tmp_path / "memory").mkdir()
    save_file(state_dict, tmp_path / "memory" / "model.safetensors")
    in_memory = flatten(read_part("swin", small_config, tmp_path / "memory"))
    for path, leaf in flatten(on_disk).items():
        np.testing.assert_array_equal(in_memory[path], leaf)
