"""Checkpoints come in whole, by rules, or not at all."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.tobytes() == other[name].tobytes() and tensor.shape == other[name].shape, name


def read_all(folder):
    """Every tensor of an exported folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_torch_to_ours_to_torch_is_bit_exact(whole, draw, checkpoint, tmp_path, dtype):
    config = whole()
    tensors = draw(config, dtype)
    import_weights([checkpoint(tensors)], config, tmp_path / "ours")
    report = export_weights(tmp_path / "ours", tmp_path / "back", shard_bytes=100_000)
    assert not report.extras
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 2
    equal(read_all(tmp_path / "back"), {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_ours_to_torch_to_ours_is_bit_exact(whole, params_of, tmp_path, dtype):
    config = whole(model__perceiver__gate="tanh")
    params = params_of(config, dtype)
    model_folder.save(tmp_path / "ours", config, Tokenizer.toy(), params)
    report = export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert report.extras and all("gate" in name for name in report.extras)
    import_weights([tmp_path / "theirs"], config, tmp_path / "again")
    equal(dict(model_folder.read(tmp_path / "again")), {path: np.asarray(leaf) for path, leaf in flatten(params).items()})


def parents(tensors):
    """The tensors of a model as Mipha-3B and Mask2Former's pickle would hold theirs."""
    mipha = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(
            (
                "model.layers.",
                "model.embed_tokens",
                "model.final_layernorm",
                "model.mm_projector",
                "model.vision_tower.",
                "lm_head",
            )
        )
    }
    mipha["lm_head.bias"] = np.zeros(tensors["lm_head.weight"].shape[0], np.float32)
    pickled = {"sem_seg_head.predictor.class_embed.weight": np.ones((3, 3), np.float32), "criterion.empty_weight": np.ones(3)}
    for name, tensor in tensors.items():
        if name.startswith("model.vision_tower_mask."):
            pickled[name.replace("model.vision_tower_mask", "backbone")] = tensor
        for conv in ("adapter_1", "layer_1"):
            for ours, theirs in (("0.weight", "weight"), ("1.weight", "norm.weight"), ("1.bias", "norm.bias")):
                if name == f"pixel_decoder.{conv}.{ours}":
                    pickled[f"sem_seg_head.pixel_decoder.{conv}.{theirs}"] = tensor
        if name.startswith("pixel_decoder.") and "adapter_1" not in name and "layer_1." not in name:
            pickled[f"sem_seg_head.{name}"] = tensor
        own = ("SEG", "CLASS", "REGION", "box_embed", "iou_head", "reid")
        if name.startswith("predictor.") and not name.removeprefix("predictor.").startswith(own):
            pickled[f"sem_seg_head.{name}".replace("query_feat", "static_query")] = tensor
    rows = pickled["sem_seg_head.predictor.query_embed.weight"]
    pickled["sem_seg_head.predictor.query_embed.weight"] = np.concatenate([rows, rows])
    return mipha, pickled


def test_the_parents_fill_the_model(whole, draw, checkpoint, tmp_path):
    sizes = {"model__num_queries": 100, "model__mask_decoder__num_queries": 100, "model__query_std": 0.0}
    config = whole(model__perceiver__gate="tanh", model__lora__rank=2, **sizes)
    tensors = draw(whole(**sizes))
    mipha, mask2former = parents(tensors)
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
    ours = model_folder.read(tmp_path / "ours")
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
    told = json.loads((tmp_path / "ours" / "import_report.json").read_text())
    assert set(told["loaded"]) | fresh == set(ours)


def test_an_adapter_comes_beside_its_base(whole, draw, params_of, checkpoint, tmp_path):
    config = whole(model__lora__rank=2)
    model_folder.save(tmp_path / "tuned", config, Tokenizer.toy(), params_of(config))
    export_weights(tmp_path / "tuned", tmp_path / "adapter", format="peft")
    report = import_weights([tmp_path / "adapter", checkpoint(draw(whole()))], config, tmp_path / "ours")
    assert not report.initialized and list(report.sources) == ["HyperSeg-3B", "PEFT adapter adapter"]
    tuned, ours = model_folder.read(tmp_path / "tuned"), model_folder.read(tmp_path / "ours")
    np.testing.assert_array_equal(ours["llm/layers/attention/value/lora_b"], tuned["llm/layers/attention/value/lora_b"])


def test_a_parent_alone_says_what_is_missing(whole, draw, checkpoint, tmp_path):
    mipha, _ = parents(draw(whole()))
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(mipha)], whole(), tmp_path / "ours")
    assert "missing: model.vision_tower_mask.patch_embed.proj.weight" in str(error.value)
    assert "seg_query" not in str(error.value)


def test_everything_wrong_is_listed_and_nothing_is_written(whole, draw, checkpoint, tmp_path):
    tensors = draw(whole())
    del tensors["mgvp_layers.norm.weight"]
    tensors["stray.weight"] = np.ones(1, np.float32)
    tensors["model.layers.0.mlp.fc1.bias"] = np.ones(3, np.float32)
    tensors["predictor.iou_head.bias"] = np.ones(1, np.int32)
    tensors["temporal_query"] = np.ones((2, 2, 2), np.float32)
    tensors["predictor.query_embed.weight"] = np.ones((), np.float32)
    index = "model.vision_tower_mask.layers.0.blocks.0.attn.relative_position_index"
    tensors[index] = tensors[index] + 1
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(tensors)], whole(), tmp_path / "ours")
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


def test_a_long_list_of_what_is_wrong_has_an_end(whole, draw, checkpoint, tmp_path):
    tensors = draw(whole()) | {f"stray.{k}": np.ones(1, np.float32) for k in range(5000)}
    tensors["stray." + "x" * 100_000] = np.ones(1, np.float32)
    with pytest.raises(UserError) as error:
        import_weights([checkpoint(tensors)], whole(), tmp_path / "ours")
    told = str(error.value).splitlines()
    assert len(told) < 110 and told[-1].endswith("4901 more") and max(map(len, told)) < 1000


def test_what_cannot_stand_together(whole, draw, params_of, checkpoint, tmp_path):
    config = whole(model__lora__rank=2)
    one = checkpoint(draw(whole()), "one")
    with pytest.raises(UserError, match="both are HyperSeg-3B"):
        import_weights([one, checkpoint(draw(whole()), "two")], whole(), tmp_path / "ours")
    model_folder.save(tmp_path / "tuned", config, Tokenizer.toy(), params_of(config))
    for name in ("first", "second"):
        export_weights(tmp_path / "tuned", tmp_path / name, format="peft")
    with pytest.raises(UserError, match="one adapter"):
        import_weights([one, tmp_path / "first", tmp_path / "second"], config, tmp_path / "ours")


def test_a_folder_that_would_be_lost_stays(whole, draw, checkpoint, tmp_path):
    published = checkpoint(draw(whole()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for out, named in ((tmp_path / "mine", "thesis.txt"), (published, "is or contains"), (tmp_path, "is or contains")):
        with pytest.raises(UserError, match=named):
            import_weights([published], whole(), out)
    import_weights([published], whole(), tmp_path / "ours")
    import_weights([published], whole(), tmp_path / "ours")  # its own folder may be written again
    for out in (tmp_path / "ours", tmp_path / "mine"):
        with pytest.raises(UserError, match="would be deleted"):
            export_weights(tmp_path / "ours", out)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_another_systems_file_is_refused(whole, checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"(?s)encoder\.weight.*HyperSeg-3B") as error:
        import_weights([checkpoint({"encoder.weight": np.ones(1, np.float32)})], whole(), tmp_path / "ours")
    assert "Mask2Former" in str(error.value)


def test_rows_follow_the_checkpoint(whole, draw, checkpoint, tmp_path):
    larger = whole(model__llm__vocab_size=600, model__head_vocab_size=640)
    report = import_weights([checkpoint(draw(larger))], whole(), tmp_path / "ours")
    assert report.config == {"model.llm.vocab_size": [576, 600], "model.head_vocab_size": [576, 640]}
    assert model_folder.read_config(tmp_path / "ours").model.llm.vocab_size == 600
    assert model_folder.read(tmp_path / "ours")["llm/tokens/embedding"].shape[0] == 600


def test_too_few_rows_for_the_tokenizer(whole, draw, checkpoint, tmp_path):
    with pytest.raises(UserError, match="the model has embeddings of 40 tokens"):
        import_weights([checkpoint(draw(whole(model__llm__vocab_size=40)))], whole(), tmp_path / "ours")


def test_another_type_and_what_has_no_place_in_it(whole, draw, checkpoint, tmp_path):
    tensors = draw(whole())
    folder = checkpoint(tensors)
    import_weights([folder], whole(), tmp_path / "ours", dtype="bfloat16")
    assert model_folder.read(tmp_path / "ours")["queries"].dtype == ml_dtypes.bfloat16
    tensors["seg_query"][0, 0] = 1e6
    with pytest.raises(UserError, match="seg_query: has values outside the range of float16"):
        import_weights([checkpoint(tensors, "large")], whole(), tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_the_tokenizer_comes_along(whole, draw, checkpoint, tmp_path):
    folder = checkpoint(draw(whole()))
    (folder / "tokenizer.json").unlink()
    config = whole(data__tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--tokenizer"):
        import_weights([folder], config, tmp_path / "ours")
    import_weights([folder], config, tmp_path / "ours", tokenizer=TOY_FILE)
    assert Tokenizer.load(tmp_path / "ours").encode("a red disc") == Tokenizer.toy().encode("a red disc")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_do_not_come_in(whole, draw, checkpoint, tmp_path, number):
    tensors = draw(whole())
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = np.full_like(tensors[name], number)
    with pytest.raises(UserError, match=f"{name}: has values that are not finite"):
        import_weights([checkpoint(tensors)], whole(), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
