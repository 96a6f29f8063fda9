"""Export to PyTorch: files, options and refusals."""

import errno
import json
import os

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from hyperseg_jax import config as configs
from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import conversion_lines, export_weights


@pytest.fixture
def saved_model(random_params, tmp_path):
    """saved(config, dtype) -> (model folder, parameters)."""

    def make(config, dtype=np.float32):
        params = random_params(config, dtype)
        model_folder.save_model(tmp_path / "model", config, Tokenizer.toy(), params)
        return tmp_path / "model", params

    return make


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_state_dict_opens_in_torch(full_config, saved_model, tmp_path, dtype):
    folder, _ = saved_model(full_config())
    export_weights(folder, tmp_path / "hf", dtype=dtype)
    export_weights(folder, tmp_path / "dict", format="state-dict", dtype=dtype)
    state_dict = torch.load(tmp_path / "dict" / "state_dict.pth", weights_only=True)
    expected = load_file(tmp_path / "hf" / "model.safetensors")
    assert state_dict.keys() == expected.keys()
    for name, tensor in state_dict.items():
        assert tensor.shape == expected[name].shape
        assert tensor.dtype == (getattr(torch, dtype) if tensor.is_floating_point() else torch.int64), name
        assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == expected[name].tobytes(), name


def test_lora_is_merged(full_config, saved_model, tmp_path):
    folder, params = saved_model(full_config(model__lora__rank=2, model__lora__alpha=6.0))
    report = export_weights(folder, tmp_path / "out")
    assert report.merged
    attention = {name: leaf[0] for name, leaf in params["llm"]["layers"]["attention"]["query"].items()}
    merged = attention["kernel"] + 3.0 * attention["lora_a"] @ attention["lora_b"]
    exported = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(exported["model.layers.0.self_attn.q_proj.weight"], merged.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        exported["model.layers.0.self_attn.k_proj.weight"], params["llm"]["layers"]["attention"]["key"]["kernel"][0].T
    )
    assert not any("lora" in name for name in exported)


def test_strict_authors_refuses_unpublished_parameters(full_config, saved_model, tmp_path):
    folder, _ = saved_model(full_config(model__perceiver__gate="tanh"))
    with pytest.raises(UserError, match=r"mgvp_layers\.layers\.0\.gate\.0\.weight"):
        export_weights(folder, tmp_path / "out", strict_authors=True)
    assert not (tmp_path / "out").exists()
    export_weights(folder, tmp_path / "out")
    assert "mgvp_layers.layers.2.gate.2.bias" in (tmp_path / "out" / "extra_names.json").read_text()


def test_untrained_heads_are_named(full_config, saved_model, tmp_path):
    """They are exported, and named in the report and in the model card."""
    folder, _ = saved_model(full_config())
    report = export_weights(folder, tmp_path / "out")
    parts = {name.split(".")[1] for name in report.untrained}
    assert parts == {"box_embed", "iou_head", "reid_embed_head"} and len(report.untrained) == 14
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"* `{name}`" in card for name in report.untrained) and "## Untrained parameters" in card
    assert f"{report.names} tensors" in card
    export_weights(folder, tmp_path / "out")  # its own card is no obstacle


def test_strict_authors_accepts_the_released_architecture(full_config, saved_model, tmp_path):
    folder, _ = saved_model(full_config())
    assert not export_weights(folder, tmp_path / "out", strict_authors=True).extras


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "peft"}, "no LoRA adapters"),
        ({"part": "mask2former"}, "lateral"),
        ({"part": "everything"}, "phi"),
        ({"part": "phi", "format": "state-dict"}, "--format hf"),
        ({"format": "peft", "dtype": "float16"}, "writes the adapter unchanged"),
    ],
)
def test_incompatible_options(full_config, saved_model, tmp_path, options, message):
    folder, _ = saved_model(full_config())
    with pytest.raises(UserError, match=message):
        export_weights(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_config_and_weights_of_different_models(full_config, saved_model, tmp_path):
    folder, _ = saved_model(full_config())
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_layers": 2', '"num_layers": 1'))
    with pytest.raises(UserError, match="does not match the config"):
        export_weights(folder, tmp_path / "out")
    (folder / "config.json").write_text(text.replace('"num_queries"', '"number_queries"'))
    with pytest.raises(UserError, match=r"config\.json: model\.mask_decoder\.number_queries: no such field"):
        export_weights(folder, tmp_path / "out")


def test_the_authors_loader_finds_its_fields(full_config, saved_model, tmp_path):
    folder, _ = saved_model(full_config())
    export_weights(folder, tmp_path / "out", dtype="float16")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["mask_decode_train"] and fields["model_type"] == "mipha_phi" and fields["torch_dtype"] == "float16"
    assert "siglip" in fields["vision_config"]["vision_tower"]["vision_model_name_or_path"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.encode("a red disc") == Tokenizer.toy().encode("a red disc")


def test_a_full_disk_is_named(saved_model, full_config, tmp_path, monkeypatch):
    def raise_no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, _ = saved_model(full_config())
    monkeypatch.setattr(os, "pwrite", raise_no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors"):
        export_weights(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_printed_table_lists_every_name(full_config, random_tensors, capsys):
    lines = list(conversion_lines(full_config(model__perceiver__gate="tanh")))
    names = [line.split("\t")[0] for line in lines]
    assert sorted(names) == sorted(random_tensors(full_config(model__perceiver__gate="tanh")))
    assert "mgvp_layers.layers.0.gate.0.weight\t[16, 16]\tperceiver/layers_0/gate/up/kernel\tTranspose (ours only)" in lines
    main(["export-weights", "--print-table", "--config", "hyperseg_3b_released"])
    printed = capsys.readouterr().out
    assert "model.layers.31.mlp.fc2.weight\t[2560, 10240]\tllm/layers/mlp/down/kernel[31]\tTranspose\n" in printed


def test_command_line_round_trip(full_config, saved_model, tmp_path, capsys):
    folder, params = saved_model(full_config())
    main(["export-weights", str(folder), "--out", str(tmp_path / "out")])
    config_file = tmp_path / "mine.py"
    fields = full_config().to_dict()
    config_file.write_text(f"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({fields!r})\n")
    assert configs.load(str(config_file)).model.num_queries == 4
    main(
        [
            "import-weights",
            str(tmp_path / "out"),
            "--config",
            str(config_file),
            "--system",
            "hyperseg",
            "--out",
            str(tmp_path / "again"),
        ]
    )
    assert "mask_decoder" in capsys.readouterr().out
    np.testing.assert_array_equal(model_folder.read_arrays(tmp_path / "again")["queries"], params["queries"])


@pytest.mark.parametrize("dtype, size", [(np.float16, 300.0), (np.float32, 1e25)])
def test_an_adapter_that_makes_its_kernel_infinite_is_refused(full_config, random_params, tmp_path, dtype, size):
    config = full_config(model__lora__rank=2, model__lora__alpha=4.0)
    large = lambda path, leaf: np.full_like(leaf, size) if "lora_" in jax.tree_util.keystr(path) else leaf
    params = jax.tree.map_with_path(large, random_params(config, dtype))
    model_folder.save_model(tmp_path / "model", config, Tokenizer.toy(), params)
    with pytest.raises(UserError, match=r"attention/\w+/kernel: is not finite after merging its adapter"):
        export_weights(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_non_finite_weights_are_refused(full_config, random_params, tmp_path):
    params = random_params(full_config())
    params["expression_projector"]["kernel"] = np.full_like(params["expression_projector"]["kernel"], np.nan)
    model_folder.save_model(tmp_path / "model", full_config(), Tokenizer.toy(), params)
    with pytest.raises(UserError, match="expression_projector/kernel: has values that are not finite"):
        export_weights(tmp_path / "model", tmp_path / "out")
