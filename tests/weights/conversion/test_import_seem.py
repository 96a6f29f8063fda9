"""Import and export of SEEM: released models, whose variants only the file name or the user knows, and the X-Decoder parent."""

import numpy as np
import pytest
import torch
from published_tensors import assert_equal, read_all
from real_vocabulary import CLIP_END
from seem_config import small_config

from hyperseg_jax.commands.evaluate_benchmarks import load_engine
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

PREDICTOR = "sem_seg_head.predictor."
NEW = ("spatial_featured.weight", "spatial_embed.weight", "pn_indicator.weight", *(f"mask_sptial_embed.{i}" for i in range(3)))


@pytest.fixture
def save(tmp_path):
    """save(tensors, name) -> a file of torch.save with this name."""

    def write(tensors, name):
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


def convert(path, out, config=None):
    return import_weights([path], config or small_config(), out, tokenizer=TOY_FILE)


def test_torch_to_ours_to_torch_is_bit_exact(random_tensors, save, tmp_path):
    tensors = random_tensors(small_config())
    report = convert(save(tensors, "seem_focalt_v1.pt"), tmp_path / "ours")
    assert list(report.sources) == ["SEEM"] and not report.initialized
    assert not export_weights(tmp_path / "ours", tmp_path / "back").extras
    assert_equal(read_all(tmp_path / "back"), tensors)


@pytest.mark.parametrize(
    "name, variant, message",
    [
        ("seem_focalt_v0.pt", "v1", "is v0 or demo, but the config has v1; give --config.model.mask_decoder.variant=v0"),
        ("seem_focalt_v1.pt", "v0", "is v1, but the config has v0"),
        ("seem_focall_v1.pt", "v1", "published with weights of v0 and of v1"),
        ("seem_focall_v1.pt", "v0", "published with weights of v0 and of v1"),
        ("seem_focall_v1 (1).pt", "v1", "published with weights of v0 and of v1"),
        ("SEEM-FocalL-v1.pt", "v1", "published with weights of v0 and of v1"),
        ("seem_focalt_v0_copy.pt", "v1", "is v0 or demo"),
        ("SEEM_FOCALT_V0.PT", "v1", "is v0 or demo"),
    ],
)
def test_a_variant_that_the_file_name_contradicts_is_refused(random_tensors, save, tmp_path, name, variant, message):
    config = small_config(model__mask_decoder__variant=variant)
    with pytest.raises(UserError, match=message):
        convert(save(random_tensors(config), name), tmp_path / "ours", config)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "name, variant", [("seem_focalt_v0.pt", "v0"), ("seem_focalt_v0.pt", "demo"), ("focall_v1.pt", "v1"), ("mine.pt", "v0")]
)
def test_the_report_names_the_variant(random_tensors, save, tmp_path, name, variant):
    config = small_config(model__mask_decoder__variant=variant)
    report = convert(save(random_tensors(config), name), tmp_path / "ours", config)
    assert report.notes == [f"model.mask_decoder.variant = {variant}, which the tensors do not show"]
    assert Model.load(tmp_path / "ours").config.model.mask_decoder.variant == variant


def test_files_of_v0_are_those_of_demo(random_tensors, save, tmp_path):
    """They have the class weights of the loss, which the model of demo does not have."""
    v0, demo = (small_config(model__mask_decoder__variant=variant) for variant in ("v0", "demo"))
    tensors = random_tensors(v0)
    convert(save(tensors, "seem_focalt_v0.pt"), tmp_path / "ours", demo)
    export_weights(tmp_path / "ours", tmp_path / "back")
    assert tensors.pop("criterion.empty_weight").size
    assert_equal(read_all(tmp_path / "back"), tensors)


def test_one_file_records_its_variant(random_tensors, save, tmp_path):
    config = small_config(model__mask_decoder__variant="v0")
    convert(save(random_tensors(config), "mine.pt"), tmp_path / "ours", config)
    export_weights(tmp_path / "ours", tmp_path / "export", format="state-dict")
    again = convert(tmp_path / "export" / "state_dict.pth", tmp_path / "again")
    assert again.config == {"model.mask_decoder.variant": ["v1", "v0"]} and not again.notes


@pytest.mark.parametrize("variant", ["v0", "demo"])
def test_an_export_records_its_variant(random_tensors, save, tmp_path, variant):
    """An import takes it over the variant of the config."""
    config = small_config(model__mask_decoder__variant=variant)
    convert(save(random_tensors(config), "mine.pt"), tmp_path / "ours", config)
    report = export_weights(tmp_path / "ours", tmp_path / "export", strict_authors=True)
    assert report.recorded == {"model.mask_decoder.variant": variant} and not report.departures
    again = import_weights([tmp_path / "export"], small_config(), tmp_path / "again")
    assert again.config == {"model.mask_decoder.variant": ["v1", variant]} and not again.notes
    assert Model.load(tmp_path / "again").config.model.mask_decoder.variant == variant
    renamed = (tmp_path / "export").rename(tmp_path / "seem_focalt_v1")
    with pytest.raises(UserError, match=rf"by its name, its model\.mask_decoder\.variant is v1, but the config has {variant}"):
        import_weights([renamed], small_config(), tmp_path / "third")


def test_another_variant_is_neither_evaluated_nor_trained_further(random_tensors, save, tmp_path):
    v0, v1 = (small_config(model__mask_decoder__variant=variant) for variant in ("v0", "v1"))
    convert(save(random_tensors(v0), "seem_focalt_v0.pt"), tmp_path / "ours", v0)
    system, mesh = systems.get("seem"), placement.make("single")
    with pytest.raises(UserError, match=r"model\.mask_decoder\.variant: 'v0' saved, 'v1' given"):
        load_engine(v1, system, tmp_path / "ours", mesh)
    with pytest.raises(UserError, match=r"init_from = .*ours: model\.mask_decoder\.variant: 'v0' saved, 'v1' given"):
        check_source(v1, tmp_path / "ours")
    check_source(v0, tmp_path / "ours")


def check_source(config, folder):
    config = config.copy_and_resolve_references().unlock()
    config.init_from = str(folder)
    groups = param_groups.groups_from_config(config.optimizer.param_groups)
    system = systems.get(config.system)
    mesh = placement.make("single")
    trace_initial_state(config, system, system.build(config), groups, lambda step: 0.0, mesh).check_source(config)


def test_xdecoder_starts_a_training(random_tensors, save, tmp_path):
    tensors = random_tensors(small_config())
    for name in NEW:
        tensors.pop(PREDICTOR + name)
    tensors.pop("dilation_kernel")
    tensors |= {
        f"{PREDICTOR}caping_embed": np.zeros((16, 16), np.float32),
        f"{PREDICTOR}self_attn_mask": np.zeros((1, 9, 9), bool),
    }
    tensors[f"{PREDICTOR}pos_embed_caping.weight"] = np.zeros((7, 16), np.float32)
    report = convert(save(tensors, "xdecoder_focalt_last.pt"), tmp_path / "ours")
    assert list(report.sources) == ["X-Decoder"]
    assert sum(map(len, report.initialized.values())) == len(NEW)
    assert sum(map(len, report.ignored.values())) == 4


def test_another_size_is_not_taken_for_another_system(random_tensors, save, tmp_path):
    wider = small_config(model__mask_encoder__hidden_size=16)
    with pytest.raises(UserError, match=r"the sources \(SEEM\) do not match the model of this config"):
        convert(save(random_tensors(wider), "seem_focalt_v1.pt"), tmp_path / "ours")


def test_another_end_token_is_refused(random_tensors, save, tmp_path):
    config = small_config(model__text_encoder__end_id=5)
    assert Tokenizer.toy().eos == CLIP_END
    with pytest.raises(UserError, match=r"end token has the id 0, but model.text_encoder.end_id = 5"):
        convert(save(random_tensors(config), "seem_focalt_v1.pt"), tmp_path / "ours", config)


SAM_VIT = {
    "kind": "sam_vit",
    "patch_size": 16,
    "hidden_size": 16,
    "num_layers": 2,
    "heads": 2,
    "window": 2,
    "global_layers": (1,),
    "neck_features": (16, 16, 16, 16),
}
DEFORMABLE = {
    "kind": "deformable",
    "conv_dim": 16,
    "mask_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 16,
    "num_layers": 1,
    "num_points": 4,
    "group_norm_groups": 4,
}
LANGUAGE = f"{PREDICTOR}lang_encoder."


def sam_checkpoint(tensors):
    """Returns the tensors of SAM's checkpoint with this image encoder."""
    encoder = {
        name.replace("backbone.", "image_encoder."): value
        for name, value in tensors.items()
        if name.startswith("backbone.") and ".neck." not in name
    }
    other = ("image_encoder.neck.0.weight", "prompt_encoder.not_a_point_embed.weight", "mask_decoder.iou_token.weight")
    return encoder | dict.fromkeys(other, np.ones((1, 4), np.float32))


def test_sam_and_a_language_encoder_start_a_training(random_tensors, save, tmp_path):
    config = small_config(model__mask_encoder=SAM_VIT, model__pixel_decoder=DEFORMABLE)
    tensors = random_tensors(config)
    language = {name: value for name, value in tensors.items() if name.startswith(LANGUAGE)}
    paths = save(language, "focalb_lang_unicl.pt"), save(sam_checkpoint(tensors), "sam_vit_b_01ec64.pth")
    report = import_weights(paths, config, tmp_path / "ours", tokenizer=TOY_FILE)
    assert list(report.sources) == ["SAM", "language encoder"]
    reasons = {reason.split(";")[0]: {path.split("/")[0] for path in found} for reason, found in report.initialized.items()}
    assert reasons == {
        "SAM has no neck for a feature pyramid": {"backbone"},
        "no source has a pixel decoder": {"pixel_decoder"},
        "no source has the decoder": {"decoder"},
    }
    assert all(
        path.startswith("backbone/neck/") for found in report.initialized.values() for path in found if "backbone" in path
    )
    assert sum(map(len, report.ignored.values())) == 3
    export_weights(tmp_path / "ours", tmp_path / "back")
    exported = read_all(tmp_path / "back")
    kept = {name for name in tensors if name.startswith((LANGUAGE, "backbone.")) and ".neck." not in name}
    assert kept and all(np.array_equal(exported[name], tensors[name]) for name in kept)
    assert not np.array_equal(exported[f"{PREDICTOR}class_embed"], tensors[f"{PREDICTOR}class_embed"])


def test_a_language_encoder_alone_starts_a_training(random_tensors, save, tmp_path):
    tensors = random_tensors(small_config())
    report = convert(save({n: v for n, v in tensors.items() if n.startswith(LANGUAGE)}, "lang.pt"), tmp_path / "ours")
    assert list(report.sources) == ["language encoder"] and not report.ignored
    assert {path.split("/")[0] for path in report.loaded} == {"text_encoder", "text_projection", "log_scale"}
    assert {path.split("/")[0] for found in report.initialized.values() for path in found} == {
        "backbone",
        "pixel_decoder",
        "decoder",
    }
    assert Model.load(tmp_path / "ours")


def test_sam_alone_is_refused(random_tensors, save, tmp_path):
    config = small_config(model__mask_encoder=SAM_VIT, model__pixel_decoder=DEFORMABLE)
    with pytest.raises(UserError, match=r"the sources \(SAM\) do not match the model of this config; give all required"):
        convert(save(sam_checkpoint(random_tensors(config)), "sam_vit_b_01ec64.pth"), tmp_path / "ours", config)


def test_a_deeper_sam_is_refused(random_tensors, save, tmp_path):
    config = small_config(model__mask_encoder=SAM_VIT, model__pixel_decoder=DEFORMABLE)
    deeper = small_config(model__mask_encoder=SAM_VIT | {"num_layers": 3}, model__pixel_decoder=DEFORMABLE)
    language = {name: value for name, value in random_tensors(config).items() if name.startswith(LANGUAGE)}
    for given, other in ((config, deeper), (deeper, config)):
        paths = save(language, "lang.pt"), save(sam_checkpoint(random_tensors(other)), "sam.pth")
        with pytest.raises(UserError, match=r"unexpected: image_encoder\.blocks\.2|missing: backbone\.blocks\.2"):
            import_weights(paths, given, tmp_path / "ours", tokenizer=TOY_FILE)
