"""Import and export of InstructSeg: its own checkpoint, the parents that training starts from, and adapters of PEFT."""

import io
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from instructseg_config import small_config
from published_tensors import assert_equal, read_all, split_parents
from rich.console import Console

from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights
from hyperseg_jax.weights.report import ImportReport


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


@pytest.fixture
def departed(random_params, tmp_path):
    """A model folder whose text fusion is the paper's, which the authors' code does not compute."""
    config = full_config(model__text_fusion__form="multi_granularity")
    model_folder.save_model(tmp_path / "run" / "model", config, Tokenizer.toy(), random_params(config))
    return tmp_path / "run"


def test_an_export_of_another_fusion_says_so_and_is_restored(departed, tmp_path, capsys):
    main(["export-weights", str(departed), "--out", str(tmp_path / "out")])
    assert "not the released architecture: model.text_fusion.form = multi_granularity" in capsys.readouterr().out
    assert (
        "`model.text_fusion.form = multi_granularity`: the authors' code computes" in (tmp_path / "out/README.md").read_text()
    )
    report = import_weights([tmp_path / "out"], full_config(), tmp_path / "back")
    assert report.config == {"model.text_fusion.form": ["published", "multi_granularity"]}
    assert model_folder.read_config(tmp_path / "back").model.text_fusion.form == "multi_granularity"
    import_weights([tmp_path / "out" / "model.safetensors"], full_config(), tmp_path / "file")
    assert model_folder.read_config(tmp_path / "file").model.text_fusion.form == "multi_granularity"


def test_an_export_of_the_published_fusion_stays_published(random_tensors, random_params, checkpoint, tmp_path, capsys):
    """A checkpoint that records no form keeps that of the config, which the report says."""
    own, other = full_config(), full_config(model__text_fusion__form="multi_granularity")
    model_folder.save_model(tmp_path / "own", own, Tokenizer.toy(), random_params(own))
    export_weights(tmp_path / "own", tmp_path / "out")
    report = import_weights([tmp_path / "out"], other, tmp_path / "back")
    assert report.config == {"model.text_fusion.form": ["multi_granularity", "published"]} and not report.notes
    assert model_folder.read_config(tmp_path / "back").model.text_fusion.form == "published"

    released = checkpoint(random_tensors(own))
    (note,) = import_weights([released], other, tmp_path / "released").notes
    assert note.startswith("model.text_fusion.form = multi_granularity is from the config, as the checkpoint records none; the")
    assert json.loads((tmp_path / "released" / "import_report.json").read_text())["notes"] == [note]
    assert not import_weights([released], own, tmp_path / "released").notes


def test_a_note_is_printed(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    changes = {"model.y": [", ", "[/]\x1b[31m"]}
    console.print(ImportReport(tmp_path, {}, notes=["model.x = 1 is [from] the config"], config=changes).table())
    assert "model.x = 1 is [from] the config" in console.file.getvalue()
    assert r"model.y: ', ' -> '[/]\x1b[31m', to match" in console.file.getvalue()


def test_strict_authors_refuses_another_fusion(departed, random_params, tmp_path):
    with pytest.raises(UserError, match=r"model\.text_fusion\.form = 'multi_granularity': the authors' code computes the form"):
        export_weights(departed, tmp_path / "out", strict_authors=True)
    assert not (tmp_path / "out").exists()
    model_folder.save_model(tmp_path / "own", full_config(), Tokenizer.toy(), random_params(full_config()))
    assert not export_weights(tmp_path / "own", tmp_path / "out", strict_authors=True).departures
    recorded = json.loads((tmp_path / "out" / "config.json").read_text())["hyperseg_jax"]
    assert recorded == {"model.text_fusion.form": "published"}


@pytest.mark.parametrize(
    "recorded, message",
    [
        ({"data.root": "/"}, "data.root = '/' is no field that an export of instructseg records"),
        ({"model.text_fusion.form": 3}, "model.text_fusion.form = 3 is no field that"),
        ({"model.text_fusion.form": "other"}, "use one of published, multi_granularity"),
    ],
)
def test_only_departures_are_taken_from_an_export(random_tensors, checkpoint, tmp_path, recorded, message):
    folder = checkpoint(random_tensors(full_config()))
    (folder / "config.json").write_text(json.dumps({"hyperseg_jax": recorded}))
    with pytest.raises(UserError, match=rf"published/config\.json: .*{message}"):
        import_weights([folder], full_config(), tmp_path / "ours")


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


def test_a_checkpoint_of_the_other_system_is_named(random_tensors, checkpoint, micro, tmp_path):
    own, other = full_config(), micro()
    for name, config, given, message in (
        ("one", own, other, "HyperSeg-3B, a checkpoint of the system hyperseg, and the config is of instructseg"),
        ("two", other, own, "InstructSeg-3B, a checkpoint of the system instructseg, and the config is of hyperseg"),
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{name}: is {message}; give a config of [a-z]*$"):
            import_weights([checkpoint(random_tensors(given), name)], config, tmp_path / "ours")


def test_an_export_of_another_system_is_named(departed, micro, tmp_path):
    export_weights(departed, tmp_path / "out")
    for source in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        with pytest.raises(
            UserError, match=r"^[^\n]*: is InstructSeg-3B, a checkpoint of the system instructseg, .* a config of"
        ):
            import_weights([source], micro(), tmp_path / "ours")


def test_a_checkpoint_that_only_another_system_knows_is_named(checkpoint, tmp_path):
    """Its tensors are those of no checkpoint of the config's system."""
    folder = checkpoint({"mgvp_layers.norm.weight": np.ones(1, np.float32)})
    message = (
        "is HyperSeg-3B, a checkpoint of the system hyperseg, and the config is of instructseg; give a config of hyperseg$"
    )
    with pytest.raises(UserError, match=message):
        import_weights([folder], full_config(), tmp_path / "ours")


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
