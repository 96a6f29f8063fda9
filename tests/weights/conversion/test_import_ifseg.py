"""Import and export of IFSeg: the authors' checkpoints, and OFA, which it starts from. Both are files of fairseq."""

import argparse

import numpy as np
import ofa_dictionary
import pytest
import torch
from published_tensors import assert_equal, read_all
from safetensors.numpy import load_file

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.ifseg.model import CLASS_TABLES, WORD_TABLES
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

NEW = ("decoder.embed_seg_positions.", "decoder.seg_pos_ln.", "decoder.seg_rel_pos_table_list.")
ABSENT = (*CLASS_TABLES, WORD_TABLES[1], "decoder.seg_rp_bucket", "decoder.bin_id_offset", "decoder.seg_id_offset")


def make_config(**fields):
    return configs.load("ifseg_tiny", [f"{name.replace('__', '.')}={value}" for name, value in fields.items()])


@pytest.fixture
def tensors(random_tensors):
    return random_tensors(make_config())


def ofa_tensors(tensors):
    """Returns the tensors that OFA would have: without the new entries, with one row less, output words and counters."""
    found = {name: x for name, x in tensors.items() if not name.startswith(NEW) and name not in ABSENT}
    found.pop("decoder.region_prefix")
    words = found[WORD_TABLES[0]][:-1]
    found |= {WORD_TABLES[0]: words, WORD_TABLES[2]: words, "decoder.output_projection.weight": words}
    return found | {"encoder.embed_images.layer1.0.bn1.num_batches_tracked": np.array(7)}


@pytest.fixture
def save(tmp_path):
    """save(tensors) -> a checkpoint of fairseq with these tensors."""

    def write(tensors, name="checkpoint_best.pt"):
        model = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}
        settings = {"model": argparse.Namespace(arch="segofa_base", seed=1), "task": {"data": "x.tsv"}}
        steps = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-5}]}
        content = {"args": None, "cfg": settings, "model": model, "last_optimizer_state": steps, "extra_state": {"epoch": 20}}
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def convert(path, out, config=None, tokenizer=TOY_FILE):
    return import_weights([path], config or make_config(), out, tokenizer=tokenizer)


def test_torch_to_ours_to_torch_is_bit_exact(tensors, save, tmp_path):
    report = convert(save(tensors), tmp_path / "ours")
    assert list(report.sources) == ["IFSeg"] and not report.initialized
    exported = export_weights(tmp_path / "ours", tmp_path / "back")
    assert not exported.extras
    assert_equal(read_all(tmp_path / "back"), tensors)
    again = convert(tmp_path / "back", tmp_path / "again")
    assert list(again.sources) == ["IFSeg"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert_equal(one, two)
    assert Tokenizer.load(tmp_path / "ours", eos="</s>").eos_id == 2


def test_ofa_lacks_what_ifseg_learns(tensors, save, tmp_path):
    given = ofa_tensors(tensors)
    report = convert(save(given), tmp_path / "ours")
    assert list(report.sources) == ["OFA"]
    ignored = str(report.ignored)
    assert "output_projection" in ignored and "num_batches_tracked" in ignored
    export_weights(tmp_path / "ours", tmp_path / "back")
    exported = read_all(tmp_path / "back")
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if name in WORD_TABLES:
            np.testing.assert_array_equal(exported[name][:-1], tensor[:-1])
            assert not exported[name][-1].any()
        elif name.startswith(NEW):
            assert not np.array_equal(exported[name], tensor) and np.isfinite(exported[name]).all(), name
        elif name not in CLASS_TABLES:
            np.testing.assert_array_equal(exported[name], tensor, err_msg=name)
    positions = exported["decoder.embed_seg_positions.weight"]
    assert 0.01 < positions.std() < 0.03, "as published, N(0, 0.02)"


def test_the_number_of_classes_is_that_of_the_checkpoint(tensors, save, tmp_path):
    more = tensors | {name: np.ones((15, tensors[name].shape[1]), np.float32) for name in CLASS_TABLES}
    report = convert(save(more), tmp_path / "ours")
    assert report.config["model.num_classes"] == [8, 15]


@pytest.mark.parametrize("of_ofa", [False, True])
def test_another_vocabulary_is_refused_by_name(tensors, save, tmp_path, of_ofa):
    given = ofa_tensors(tensors) if of_ofa else dict(tensors)
    given |= {name: given[name][:-100] for name in WORD_TABLES if name in given}
    path = save(given, "chinese.pt")
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "ours")
    rows = 640 - of_ofa
    assert str(caught.value).startswith(
        f"{path}: encoder.embed_tokens.weight has {rows - 100} rows, and model.vocab_size = 640 needs {rows}: another "
        "vocabulary, such as that of the Chinese OFA; give"
    )
    assert "\n" not in str(caught.value) and not (tmp_path / "ours").exists()


def test_a_tokenizer_that_does_not_fit_is_refused(tensors, save, tmp_path):
    small = ofa_dictionary.write_small(tmp_path / "ofa")  # with OFA's tokens of codes and bins: more than 640
    with pytest.raises(UserError, match=r"has ids up to 9206, but the model has embeddings of 640 tokens \(model.vocab_size\)"):
        convert(save(tensors), tmp_path / "ours", tokenizer=small)
    with pytest.raises(UserError, match="has no token '</s>'"):
        convert(save(tensors), tmp_path / "ours", tokenizer=TOY_FILE.parent / "tiny")


def test_switches_of_the_decoder_are_recorded(tensors, save, tmp_path):
    config = make_config(model__decoder__causal=False, model__decoder_input="encoder_input")
    convert(save(tensors), tmp_path / "ours", config)
    export_weights(tmp_path / "ours", tmp_path / "back")
    report = convert(tmp_path / "back", tmp_path / "again")
    assert report.config["model.decoder.causal"] == [True, False]
    assert report.config["model.decoder_input"] == ["encoder_output", "encoder_input"]


def test_a_missing_tensor_is_named(tensors, save, tmp_path):
    given = {name: x for name, x in tensors.items() if name != "encoder.layers.1.fc1.bias"}
    with pytest.raises(UserError, match=r"missing: encoder\.layers\.1\.fc1\.bias"):
        convert(save(given), tmp_path / "ours")
