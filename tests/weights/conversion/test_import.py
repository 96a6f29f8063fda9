"""Import of checkpoints: complete, by rules, or refused."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from published_tensors import assert_equal, read_all, split_parents
from safetensors.numpy import save_file

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_torch_to_ours_to_torch_is_bit_exact(full_config, random_tensors, checkpoint, tmp_path, dtype):
    config = full_config()
    tensors = random_tensors(config, dtype)
    import_weights([checkpoint(tensors)], config, tmp_path / "ours")
    report = export_weights(tmp_path / "ours", tmp_path / "back", shard_bytes=100_000)
    assert not report.extras
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 2
    assert_equal(read_all(tmp_path / "back"), {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_ours_to_torch_to_ours_is_bit_exact(full_config, random_params, tmp_path, dtype):
    config = full_config(model__perceiver__gate="tanh")
    params = random_params(config, dtype)
    model_folder.save_model(tmp_path / "ours", config, Tokenizer.toy(), params)
    report = export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert report.extras and all("gate" in name for name in report.extras)
    import_weights([tmp_path / "theirs"], config, tmp_path / "again")
    assert_equal(
        dict(model_folder.read_arrays(tmp_path / "again")), {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    )


def test_import_of_both_parents(full_config, random_tensors, checkpoint, tmp_path):
    sizes = {"model__num_queries": 100, "model__mask_decoder__num_queries": 100, "model__query_std": 0.0}
    config = full_config(model__perceiver__gate="tanh", model__lora__rank=2, **sizes)
    tensors = random_tensors(full_config(**sizes))
    mipha, mask2former = split_parents(tensors)
    pkl = tmp_path / "model_final.pkl"
    pkl.write_bytes(pickle.dumps({"model": mask2former, "__author__": "third_party", "matching_heuristics": True}))
    siglip = tmp_path / "siglip"
    siglip.mkdir()
    save_file(
        {
            "vision_model.embeddings.patch_embedding.weight": np.ones((2, 2), np.float32),
            "text_model.final.weight": np.ones(2, np.float32),
        },
        siglip / "model.safetensors",
    )

    report = import_weights([pkl, siglip, checkpoint(mipha, "mipha")], config, tmp_path / "ours")
    assert list(report.sources) == ["Mipha-3B", "SigLIP", "Mask2Former"]
    ours = model_folder.read_arrays(tmp_path / "ours")
    np.testing.assert_array_equal(ours["llm/layers/mlp/up/kernel"][0], tensors["model.layers.0.mlp.fc1.weight"].T)
    np.testing.assert_array_equal(ours["mask_decoder/mask/layers_1/bias"], tensors["predictor.mask_embed.layers.1.bias"])
    np.testing.assert_array_equal(
        ours["clip_encoder/patches/bias"], tensors["model.vision_tower.vision_model.embeddings.patch_embedding.bias"]
    )
    np.testing.assert_array_equal(ours["queries"], 0 * ours["queries"])
    assert ours["perceiver/query"].std() == pytest.approx(1, abs=0.2)
    fresh = {path for paths in report.initialized.values() for path in paths}
    assert {
        "queries",
        "perceiver/query",
        "llm/layers/attention/query/lora_a",
        "mask_decoder/box_iou/kernel",
        "perceiver/layers_0/gate/up/kernel",
    } <= fresh
    assert not any(path.startswith(("mask_encoder/", "clip_encoder/", "projector/")) for path in fresh)
    ignored = {name for names in report.ignored.values() for name in names}
    assert {"predictor.query_embed.weight[100:]"} <= {name.removeprefix("sem_seg_head.") for name in ignored}
    assert {
        "__author__",
        "lm_head.bias",
        "sem_seg_head.predictor.class_embed.weight",
        "text_model.final.weight",
        "vision_model.embeddings.patch_embedding.weight",
    } <= ignored
    messages = json.loads((tmp_path / "ours" / "import_report.json").read_text())
    assert set(messages["loaded"]) | fresh == set(ours)


def test_import_of_an_adapter_with_its_base(full_config, random_tensors, random_params, checkpoint, tmp_path):
    config = full_config(model__lora__rank=2)
    model_folder.save_model(tmp_path / "tuned", config, Tokenizer.toy(), random_params(config))
    export_weights(tmp_path / "tuned", tmp_path / "adapter", format="peft")
    report = import_weights([tmp_path / "adapter", checkpoint(random_tensors(full_config()))], config, tmp_path / "ours")
    assert not report.initialized and list(report.sources) == ["HyperSeg-3B", "PEFT adapter adapter"]
    tuned, ours = model_folder.read_arrays(tmp_path / "tuned"), model_folder.read_arrays(tmp_path / "ours")
    np.testing.assert_array_equal(ours["llm/layers/attention/value/lora_b"], tuned["llm/layers/attention/value/lora_b"])


def test_one_parent_lists_missing_weights(full_config, random_tensors, checkpoint, tmp_path):
    mipha, _ = split_parents(random_tensors(full_config()))
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(mipha)], full_config(), tmp_path / "ours")
    assert "missing: model.vision_tower_mask.patch_embed.proj.weight" in str(error.value)
    assert "seg_query" not in str(error.value)


def test_all_errors_are_listed_and_nothing_is_written(full_config, random_tensors, checkpoint, tmp_path):
    tensors = random_tensors(full_config())
    del tensors["mgvp_layers.norm.weight"]
    tensors["stray.weight"] = np.ones(1, np.float32)
    tensors["model.layers.0.mlp.fc1.bias"] = np.ones(3, np.float32)
    tensors["predictor.iou_head.bias"] = np.ones(1, np.int32)
    tensors["temporal_query"] = np.ones((2, 2, 2), np.float32)
    tensors["predictor.query_embed.weight"] = np.ones((), np.float32)
    index = "model.vision_tower_mask.layers.0.blocks.0.attn.relative_position_index"
    tensors[index] = tensors[index] + 1
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(tensors)], full_config(), tmp_path / "ours")
    for part in (
        "missing: mgvp_layers.norm.weight",
        "unexpected: stray.weight",
        "model.layers.0.mlp.fc1.bias [3]: becomes llm/",
        "predictor.iou_head.bias: int32",
        "temporal_query [2, 2, 2]",
        "predictor.query_embed.weight []",
        f"{index}: differs",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_long_error_lists_are_truncated(full_config, random_tensors, checkpoint, tmp_path):
    tensors = random_tensors(full_config()) | {f"stray.{k}": np.ones(1, np.float32) for k in range(5000)}
    tensors["stray." + "x" * 100_000] = np.ones(1, np.float32)
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(tensors)], full_config(), tmp_path / "ours")
    messages = str(error.value).splitlines()
    assert len(messages) < 110 and messages[-1].endswith("4901 more") and max(map(len, messages)) < 1000


def test_incompatible_checkpoints(full_config, random_tensors, random_params, checkpoint, tmp_path):
    config = full_config(model__lora__rank=2)
    one = checkpoint(random_tensors(full_config()), "one")
    with pytest.raises(UserError, match="both are HyperSeg-3B"):
        import_weights([one, checkpoint(random_tensors(full_config()), "two")], full_config(), tmp_path / "ours")
    model_folder.save_model(tmp_path / "tuned", config, Tokenizer.toy(), random_params(config))
    for name in ("first", "second"):
        export_weights(tmp_path / "tuned", tmp_path / name, format="peft")
    with pytest.raises(UserError, match="one adapter"):
        import_weights([one, tmp_path / "first", tmp_path / "second"], config, tmp_path / "ours")


def test_existing_folders_are_not_overwritten(full_config, random_tensors, checkpoint, tmp_path):
    published = checkpoint(random_tensors(full_config()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for out, named in ((tmp_path / "mine", "thesis.txt"), (published, "is or contains"), (tmp_path, "is or contains")):
        with pytest.raises(UserError, match=named):
            import_weights([published], full_config(), out)
    import_weights([published], full_config(), tmp_path / "ours")
    import_weights([published], full_config(), tmp_path / "ours")  # our own output folder may be overwritten
    for out in (tmp_path / "ours", tmp_path / "mine"):
        with pytest.raises(UserError, match="would be deleted"):
            export_weights(tmp_path / "ours", out)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_files_of_other_systems_are_refused(full_config, checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"(?s)encoder\.weight.*HyperSeg-3B") as error:
        import_weights([checkpoint({"encoder.weight": np.ones(1, np.float32)})], full_config(), tmp_path / "ours")
    assert "Mask2Former" in str(error.value)


def test_vocabulary_size_follows_the_checkpoint(full_config, random_tensors, checkpoint, tmp_path):
    larger = full_config(model__llm__vocab_size=600, model__head_vocab_size=640)
    report = import_weights([checkpoint(random_tensors(larger))], full_config(), tmp_path / "ours")
    assert report.config == {"model.llm.vocab_size": [576, 600], "model.head_vocab_size": [576, 640]}
    assert model_folder.read_config(tmp_path / "ours").model.llm.vocab_size == 600
    assert model_folder.read_arrays(tmp_path / "ours")["llm/tokens/embedding"].shape[0] == 600


def test_too_few_rows_for_the_tokenizer(full_config, random_tensors, checkpoint, tmp_path):
    with pytest.raises(UserError, match="the model has embeddings of 40 tokens"):
        import_weights([checkpoint(random_tensors(full_config(model__llm__vocab_size=40)))], full_config(), tmp_path / "ours")


def test_dtype_conversion_and_overflow(full_config, random_tensors, checkpoint, tmp_path):
    tensors = random_tensors(full_config())
    folder = checkpoint(tensors)
    import_weights([folder], full_config(), tmp_path / "ours", dtype="bfloat16")
    assert model_folder.read_arrays(tmp_path / "ours")["queries"].dtype == ml_dtypes.bfloat16
    tensors["seg_query"][0, 0] = 1e6
    with pytest.raises(
        UserError, match=r"^\S*/large\S*: seg_query: has values outside the range of float16; use --dtype float32$"
    ):
        import_weights([checkpoint(tensors, "large")], full_config(), tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("dtype", ["source", "float32", "bfloat16"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_values_beyond_float32_are_refused(full_config, random_tensors, checkpoint, tmp_path, dtype):
    """Models are loaded in float32, so that a wider type would not help."""
    tensors = random_tensors(full_config())
    tensors["seg_query"] = tensors["seg_query"].astype(np.float64)
    tensors["seg_query"][0, 0] = -1e300
    message = r"^\S*/large\S*: seg_query: has values outside the range of float32; give a checkpoint with smaller values$"
    with pytest.raises(UserError, match=message):
        import_weights([checkpoint(tensors, "large")], full_config(), tmp_path / "ours", dtype=dtype)
    assert not (tmp_path / "ours").exists()


def test_the_tokenizer_is_imported(full_config, random_tensors, checkpoint, tmp_path):
    folder = checkpoint(random_tensors(full_config()))
    (folder / "tokenizer.json").unlink()
    config = full_config(data__tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--tokenizer"):
        import_weights([folder], config, tmp_path / "ours")
    import_weights([folder], config, tmp_path / "ours", tokenizer=TOY_FILE)
    assert Tokenizer.load(tmp_path / "ours").encode("a red disc") == Tokenizer.toy().encode("a red disc")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_non_finite_weights_are_refused(full_config, random_tensors, checkpoint, tmp_path, number):
    tensors = random_tensors(full_config())
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = np.full_like(tensors[name], number)
    with pytest.raises(UserError, match=f"{name}: has values that are not finite"):
        import_weights([checkpoint(tensors)], full_config(), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
