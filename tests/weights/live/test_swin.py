"""Swin beside transformers' SwinBackbone, with weights of either."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten

SWIN = {"hidden_size": 8, "depths": (2, 1, 4), "num_heads": (1, 2, 4), "window": 4, "mlp_ratio": 2.5}
# 19 x 26 patches, then 10 x 13, 5 x 7: no level is a multiple of the window, and merging meets odd sizes
IMAGE = np.random.default_rng(0).standard_normal((2, 75, 101, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small(config):
    return config(mask_encoder=SWIN)


def shapes(config):
    model = systems.get("hyperseg").build(config).mask_encoder
    return nn.unbox({"mask_encoder": jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]})


def same(close, config, params, model):
    import torch

    swin = systems.get("hyperseg").build(config).mask_encoder
    levels = jax.jit(lambda p: swin.apply({"params": p}, IMAGE).levels)(params["mask_encoder"])
    with torch.no_grad():
        maps = model(torch.tensor(IMAGE).permute(0, 3, 1, 2)).feature_maps
    assert [level.shape[1:3] for level in levels] == [(19, 26), (10, 13), (5, 7)]
    for level, found in zip(levels, maps, strict=True):
        close(level, found.permute(0, 2, 3, 1))


@pytest.fixture
def backbone(random_torch):
    """Its last norm is never run, and stays as it starts."""
    from transformers import SwinBackbone, SwinConfig

    model = random_torch(
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


def test_their_weights_in_ours(backbone, small, tmp_path, read_part, close):
    backbone.save_pretrained(tmp_path)
    same(close, small, read_part("swin", small, tmp_path, shapes(small)), backbone)


def test_our_weights_in_theirs(small, tmp_path, random_ours, write_part, open_whole, close):
    from transformers import SwinBackbone

    params = random_ours(shapes(small))
    write_part("swin", small, params, tmp_path / "ours")
    same(close, small, params, open_whole(SwinBackbone, tmp_path / "ours"))


def test_bits_survive(backbone, small, round_trip):
    round_trip("swin", small, backbone)


def test_names_in_memory_and_on_disk_are_one(backbone, small, tmp_path, read_part):
    backbone.save_pretrained(tmp_path / "disk")
    on_disk = read_part("swin", small, tmp_path / "disk")
    state = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    assert not load_file(tmp_path / "disk" / "model.safetensors").keys() >= state.keys()
    (tmp_path / "memory").mkdir()
    save_file(state, tmp_path / "memory" / "model.safetensors")
    in_memory = flatten(read_part("swin", small, tmp_path / "memory"))
    for path, leaf in flatten(on_disk).items():
        np.testing.assert_array_equal(in_memory[path], leaf)
