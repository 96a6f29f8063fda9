"""Folders of GPT-2 and LLaMA as source checkpoints of a system, in whose names the language model has a prefix."""

import dataclasses
import json

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scribe import SCRIBE

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import gpt2, hub, llama
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.weights.importing import import_weights

MODELS = {
    "gpt2": {"vocab_size": 640, "hidden_size": 8, "mlp_size": 32, "num_layers": 2, "num_heads": 2, "num_positions": 12},
    "llama": {"vocab_size": 640, "hidden_size": 8, "mlp_size": 12, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2},
    "tied": {"vocab_size": 640, "hidden_size": 8, "mlp_size": 12, "num_layers": 2, "num_heads": 4, "tied": True},
}


class Teller(nn.Module):
    """A system that is a language model."""

    llm: nn.Module

    def __call__(self, stream):
        return self.llm(stream)


def build(config):
    fields = dict(config.model.llm)
    return Teller(gpt2.GPT2(**fields) if "num_positions" in fields else llama.Llama(**fields))


TELLER = dataclasses.replace(
    SCRIBE,
    name="teller",
    build=build,
    init=lambda model, config, key: model.init(key, TokenStream.of_text(np.zeros((1, 2, 8), np.float32)))["params"],
    weight_table=lambda config: hub.weight_table(build(config).llm, with_head=True).with_prefix("llm/", "language_model."),
    source_checkpoints=hub.source_checkpoints(lambda config: build(config).llm),
    parts=hub.make_parts(lambda config: build(config).llm),
)
systems.register(TELLER)


def make_config(name, **changes):
    return ml_collections.ConfigDict({"system": "teller", "seed": 0, "model": {"llm": MODELS[name] | changes}})


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    """Returns the config, and a folder of transformers with a random model: its tensors, as older files name them."""
    import torch
    import transformers

    config = make_config(request.param)
    settings = TELLER.parts["gpt2" if request.param == "gpt2" else "llama"].config_json(config)
    kind = getattr(transformers, settings.pop("architectures")[0])
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings))
    model.save_pretrained(tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    if request.param == "gpt2":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        tensors["h.0.attn.bias"] = np.ones((1, 1, 12, 12), np.float32)
    else:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(1, np.float32)
    save_file(tensors, tmp_path / "theirs" / "model.safetensors")
    return config, tmp_path / "theirs", model


def test_a_folder_of_transformers_is_a_source(published, tmp_path):
    config, folder, model = published
    report = import_weights([folder], config, tmp_path / "ours")
    assert list(report.sources) == ["GPT-2" if "num_positions" in config.model.llm else "LLaMA"]
    imported = load_file(tmp_path / "ours" / "model.safetensors")
    assert imported.keys() == flatten(systems.get("teller").shapes(config)).keys()
    tensors = {f"language_model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = flatten(TELLER.weight_table(config).to_flax(tensors))
    jax.tree.map(np.testing.assert_array_equal, imported, expected)


def test_a_folder_of_another_model_is_refused(published, tmp_path):
    config, folder, _ = published
    config.model.llm = {name: value for name, value in config.model.llm.items() if name != "num_kv_heads"} | {"num_heads": 1}
    expected = r"theirs/config\.json: is of a model with num_heads = \d, but model\.llm\.num_heads = 1; set it to \d"
    with pytest.raises(UserError, match=expected):
        import_weights([folder], config, tmp_path / "ours")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "phi"}))
    with pytest.raises(UserError, match=r"theirs/config\.json: model_type = 'phi' is not supported, only gpt2 or llama"):
        import_weights([folder], config, tmp_path / "ours")


def test_a_part_of_another_kind_is_refused():
    for name, other in (("gpt2", "llama"), ("llama", "gpt2")):
        with pytest.raises(UserError, match=f"{name}: the language model of this config is {other}"):
            TELLER.parts[name].table(make_config(other))


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu' is not supported, only 'gelu_new'"),
        ("gpt2", {"n_head": "4"}, "n_head = '4' must be an integer"),
        ("gpt2", {"n_layer": 0}, "n_layer = 0 must be an integer of 1 to"),
        ("gpt2", {"attn_pdrop": 0.3}, "embd_pdrop, attn_pdrop, resid_pdrop differ"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3' is not supported"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2}}, "type = 'linear' is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias = True is not supported"),
        ("llama", {"head_dim": 7}, "head_dim = 7 is not supported, only 100"),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps = -1 must be a number of at least 0"),
        ("llama", {"rope_parameters": 3}, "rope_parameters = 3 must be a block"),
    ],
)
def test_unsupported_settings(kind, changes, message):
    content = {"model_type": kind, "hidden_size": 3200, "num_attention_heads": 32}
    assert hub.from_hub(content).num_layers in (12, 32)
    with pytest.raises(UserError, match=message):
        hub.from_hub(content | changes)
