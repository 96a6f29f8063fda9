"""Import and export of InstructSeg: its own checkpoint, the parents that training starts from, and adapters of PEFT."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from instructseg_config import small_config
from published_tensors import assert_equal, read_all, split_parents

from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights


def full_config(**fields):
    """A small config with the released unused weights, more than one layer to stack, and a stage of scanned pairs."""
    full = {
        "model__clip_encoder__num_layers": 2,
        "model__clip_encoder__feature_layer": -2,
        "model__llm__num_layers": 2,
        "model__mask_encoder__depths": (1, 1, 2, 1),
    }
    config = small_config(**full, **fields).unlock()
    config.model.clip_encoder.keep_unused = config.model.mask_decoder.keep_unused = True
    return config.lock()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda t: np.dtype(t).name)
def test_torch_to_ours_to_torch_is_bit_exact(random_tensors, checkpoint, tmp_path, dtype):
    config = full_config()
    tensors = random_tensors(config, dtype)
    report = import_weights([checkpoint(tensors)], config, tmp_path / "ours")
    assert list(report.sources) == ["InstructSeg-3B"] and not report.initialized
    assert not export_weights(tmp_path / "ours", tmp_path / "back").extras
    assert_equal(read_all(tmp_path / "back"), {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def test_import_of_both_parents(random_tensors, checkpoint, tmp_path):
    sizes = {"model__num_queries": 100, "model__mask_decoder__num_queries": 100, "model__query_std": 0.0}
    config = full_config(model__lora__rank=2, **sizes)
    tensors = random_tensors(full_config(**sizes))
    mipha, mask2former = split_parents(tensors)
    pkl = tmp_path / "model_final.pkl"
    pkl.write_bytes(pickle.dumps({"model": mask2former, "__author__": "third_party", "matching_heuristics": True}))
    report = import_weights([pkl, checkpoint(mipha, "mipha")], config, tmp_path / "ours")
    assert list(report.sources) == ["Mipha-3B", "Mask2Former"]
    ours = model_folder.read_arrays(tmp_path / "ours")
    np.testing.assert_array_equal(ours["llm/layers/mlp/up/kernel"][0], tensors["model.layers.0.mlp.fc1.weight"].T)
    np.testing.assert_array_equal(ours["mask_decoder/mask/layers_1/bias"], tensors["predictor.mask_embed.layers.1.bias"])
    np.testing.assert_array_equal(ours["queries"], 0 * ours["queries"])
    fresh = {path for paths in report.initialized.values() for path in paths}
    new = ("object_perceiver/", "text_fusion/", "local_project/", "mask_decoder/expression/")
    for start in (*new, "global_projector/", "detail_projector/", "query_projector/", "fused_projector/"):
        assert any(path.startswith(start) for path in fresh), start
    assert "llm/layers/attention/query/lora_a" in fresh
    assert not any(path.startswith(("mask_encoder/", "clip_encoder/", "projector/", "pixel_decoder/level")) for path in fresh)


def test_adapters_of_peft_both_ways(random_tensors, random_params, checkpoint, tmp_path):
    config = full_config(model__lora__rank=2)
    params = random_params(config)
    model_folder.save_model(tmp_path / "tuned", config, Tokenizer.toy(), params)
    export_weights(tmp_path / "tuned", tmp_path / "adapter", format="peft")
    report = import_weights([tmp_path / "adapter", checkpoint(random_tensors(full_config()))], config, tmp_path / "ours")
    assert not report.initialized and list(report.sources) == ["InstructSeg-3B", "PEFT adapter adapter"]
    ours = model_folder.read_arrays(tmp_path / "ours")
    for path, value in flatten(params).items():
        if "lora_" in path:
            np.testing.assert_array_equal(ours[path], value)
