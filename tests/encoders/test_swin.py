import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.encoders import swin
from hyperseg_jax.layers.window_attention import (
    SHIFT_MASK_BIAS,
    merge_windows,
    partition_windows,
    relative_position_index,
    shift_mask,
)

TINY = swin.Swin(hidden_size=8, depths=(1, 4), num_heads=(1, 2), window=4)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(0), (2, 38, 50, 3))


@pytest.fixture(scope="module")
def params(image):
    result = nn.unbox(jax.jit(TINY.init)(jax.random.key(1), image)["params"])
    # the relative bias is initialized near zero; scale it up
    bias = lambda x: jnp.sin(jnp.arange(x.size)).reshape(x.shape)
    return jax.tree_util.tree_map_with_path(lambda path, x: bias(x) if "relative_bias" in str(path) else x, result)


def run(model, params, image, **kwargs):
    return jax.jit(lambda p, x: model.apply({"params": p}, x, **kwargs).levels)(params, image)


@pytest.fixture(scope="module")
def levels(params, image):
    return run(TINY, params, image)


def test_levels_cover_any_size(levels):
    assert [level.shape for level in levels] == [(2, 10, 13, 8), (2, 5, 7, 16)]


def test_partition_and_merge_are_inverse():
    x = np.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    windows = partition_windows(jnp.asarray(x), 4)
    np.testing.assert_array_equal(windows[0, 4].reshape(4, 4, 3), x[0, 4:8, 4:8])
    np.testing.assert_array_equal(merge_windows(windows, 8, 12), x)


def test_shift_mask_separates_rolled_regions():
    h, w, window = 8, 12, 4
    row, column = (np.roll(grid, (-2, -2), (0, 1)) for grid in np.meshgrid(np.arange(h), np.arange(w), indexing="ij"))
    cut = lambda grid: np.asarray(partition_windows(jnp.asarray(grid)[None, :, :, None], window))[0, :, :, 0]
    row, column = cut(row), cut(column)
    far = (abs(row[:, :, None] - row[:, None]) >= window) | (abs(column[:, :, None] - column[:, None]) >= window)
    np.testing.assert_array_equal(shift_mask(h, w, window)[:, 0] == SHIFT_MASK_BIAS, far)


def test_relative_index_depends_on_the_offset():
    index = relative_position_index(3)
    assert index[0, 0] == index[4, 4] == index[8, 8] == 12
    assert index[0, 1] == index[7, 8] == 11 and index[0, 3] == index[4, 7] == 7


def test_scanned_stage_equals_loop(params, image, levels, monkeypatch):
    published = swin.table(TINY).to_torch(params)
    monkeypatch.setattr(swin, "SCANNED_DEPTH", 99)
    looped = swin.table(TINY).to_flax(published)
    assert "blocks_3" in looped["stages_1"]
    for one, other in zip(levels, run(TINY, looped, image), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_table_round_trip(params):
    table = swin.table(TINY)
    published = table.to_torch(params)
    assert published["layers.1.blocks.3.attn.relative_position_index"].shape == (16, 16)
    assert published["layers.1.blocks.2.attn.qkv.weight"].shape == (48, 16)
    restored = table.to_flax(published, params)
    chex.assert_trees_all_equal(restored, params)


def test_unknown_remat_policies_are_reported(image):
    with pytest.raises(ValueError, match="none, full, marked, dots"):
        jax.eval_shape(TINY.clone(remat="half").init, jax.random.key(0), image)


def test_drop_path_only_in_training(params, image, levels):
    model = TINY.clone(drop_path=0.5)
    for one, other in zip(run(model, params, image), levels, strict=True):
        np.testing.assert_array_equal(one, other)
    train = run(model, params, image, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(train[0], levels[0], atol=1e-5)  # the first block is never dropped
    assert np.abs(train[1] - levels[1]).max() > 1e-3


def test_drop_path_keeps_the_mean():
    block = swin.SwinBlock(1, 4, 2.0, False, TINY.precision, deterministic=False)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 4, 4, 8)), (400, 4, 4, 8))
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(1)}
    params = jax.jit(lambda x: block.init(keys, x, jnp.float32(0))["params"])(x[:1])
    kept = dataclasses.replace(block, deterministic=True, parent=None)
    full = jax.jit(lambda p: kept.apply({"params": p}, x, jnp.float32(0)))(params)
    dropped = jax.jit(lambda p: block.apply({"params": p}, x, jnp.float32(0.5), rngs={"dropout": jax.random.key(2)}))(params)
    assert 60 < int((np.abs(dropped - x).max((1, 2, 3)) == 0).sum()) < 140  # a quarter drops both branches
    assert float(jnp.abs(dropped.mean(0) - full.mean(0)).mean()) < 0.3 * float(jnp.abs(full - x).mean())
