"""Adapters and PEFT: PEFT reads ours, we read PEFT's, and merging preserves the outputs."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.linear import LoRA
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.weights import peft_adapter

LLM = {"vocab_size": 37, "hidden_size": 36, "mlp_size": 40, "num_layers": 12, "num_heads": 3, "rotary_fraction": 0.4}
IDS = np.random.default_rng(0).integers(0, 37, (2, 7))
TARGETS = [("query", "value"), ("key", "out", "up", "down")]
NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.dense",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


@pytest.fixture
def lora_config(config):
    """lora_config(**fields): a config with adapters of rank 2 at scale 3."""
    return lambda **fields: config(llm=LLM, head_vocab_size=37, lora={"rank": 2, "alpha": 6.0, "dropout": 0.1, **fields})


def logits(config, params):
    model = systems.get("hyperseg").build(config)

    @jax.jit
    def run(params):
        llm = {"params": params["llm"]}
        positions = np.broadcast_to(np.arange(IDS.shape[1], dtype=np.int32), IDS.shape)
        embeddings = model.llm.apply(llm, IDS, method="embed")
        hidden = model.llm.apply(llm, TokenStream(embeddings, positions, np.ones(IDS.shape, bool), positions))
        return model.language_head.apply({"params": params["language_head"]}, hidden)

    return run(params)


def their_logits(model):
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS), use_cache=False).logits


def split_params(params):
    """Splits params into (base, adapters), both by flax path."""
    flat = flatten(params)
    adapters = {path: flat.pop(path) for path in list(flat) if "/lora_" in path}
    return flat, adapters


@pytest.fixture
def base_model(tmp_path, lora_config, random_like, write_part, load_pretrained):
    """base_model(config, params): a PhiForCausalLM with our base weights."""
    from transformers import PhiForCausalLM

    def make(config, params):
        plain = lora_config(rank=0)
        write_part("phi", plain, unflatten(split_params(params)[0]), tmp_path / "base")
        return load_pretrained(PhiForCausalLM, tmp_path / "base")

    return make


@pytest.mark.parametrize("targets", TARGETS)
def test_merging_preserves_the_logits(lora_config, random_like, phi_shapes, targets):
    config = lora_config(targets=targets)
    params = random_like(phi_shapes(config))
    merged, adapters = split_params(params)
    scale = LoRA(2, 6.0).scale
    for path in adapters:
        if path.endswith("/lora_a"):
            linear = path.removesuffix("/lora_a")
            a, b = adapters[path], adapters[f"{linear}/lora_b"]
            merged[f"{linear}/kernel"] = peft_adapter.merge_adapter(merged[f"{linear}/kernel"], a, b, scale)
    expected = np.asarray(logits(config, params))
    result = np.asarray(logits(lora_config(rank=0), unflatten(merged)))
    assert np.abs(result - expected).max() < 1e-5 * expected.std()
    without = np.asarray(logits(lora_config(rank=0), unflatten(split_params(params)[0])))
    assert np.abs(without - expected).max() > 0.1 * expected.std()


def test_merging_keeps_the_dtype_and_rounds_once():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.standard_normal(shape).astype(jnp.bfloat16) for shape in ((3, 8, 6), (3, 8, 2), (3, 2, 6)))
    merged = peft_adapter.merge_adapter(kernel, a, b, 1.5)
    assert merged.dtype == jnp.bfloat16
    exact = kernel.astype(np.float64) + 1.5 * a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_array_equal(merged, exact.astype(np.float32).astype(jnp.bfloat16))


@pytest.mark.parametrize("targets", TARGETS)
def test_peft_reads_our_adapters(lora_config, tmp_path, random_like, phi_shapes, base_model, assert_close, targets):
    from peft import PeftModel

    config = lora_config(targets=targets)
    params = random_like(phi_shapes(config))
    peft_adapter.write_adapter(tmp_path / "adapter", params, config, base="base")
    model = PeftModel.from_pretrained(base_model(config, params), tmp_path / "adapter", local_files_only=True)
    hit = {name.split(".base_layer")[0] for name, _ in model.named_modules() if name.endswith(".base_layer")}
    assert hit == {f"base_model.model.model.layers.{i}.{NAMES[t]}" for t in targets for i in range(12)}
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (2, 6, 0.1)
    assert settings.base_model_name_or_path == "base"
    assert_close(logits(config, params), their_logits(model))


def test_peft_adapts_only_the_language_model(lora_config, tmp_path, random_like, phi_shapes):
    config = lora_config(targets=TARGETS[0])
    peft_adapter.write_adapter(tmp_path / "adapter", random_like(phi_shapes(config)), config)
    pattern = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert re.fullmatch(pattern, "model.layers.11.self_attn.q_proj")
    for other in (
        "model.layers.12.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj",
    ):
        assert not re.fullmatch(pattern, other)


@pytest.fixture
def saved_by_peft(tmp_path, lora_config, random_like, phi_shapes, base_model):
    """peft_adapter_of(**fields): (our config, our base weights, a random adapter saved by PEFT, its folder)."""
    import torch
    from peft import LoraConfig, get_peft_model

    def make(**fields):
        config = lora_config(targets=TARGETS[0])
        params = random_like(phi_shapes(config))
        options = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **fields}
        model = get_peft_model(base_model(config, params), LoraConfig(**options))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        model.save_pretrained(tmp_path / "saved")
        return config, split_params(params)[0], model, tmp_path / "saved"

    return make


def test_we_read_adapters_of_peft(saved_by_peft, assert_close):
    config, flat, model, folder = saved_by_peft()
    assert_close(logits(config, unflatten(flat | peft_adapter.read_adapter(folder, config))), their_logits(model))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_round_trip_is_bit_equal(saved_by_peft, tmp_path, kind):
    config, _, _, folder = saved_by_peft()
    saved_model = {name: tensor.astype(jnp.dtype(kind)) for name, tensor in load_file(folder / peft_adapter.WEIGHTS).items()}
    save_file(saved_model, folder / peft_adapter.WEIGHTS)
    adapters = peft_adapter.read_adapter(folder, config)
    peft_adapter.write_adapter(tmp_path / "again", adapters, config)
    repeated = load_file(tmp_path / "again" / peft_adapter.WEIGHTS)
    assert repeated.keys() == saved_model.keys()
    for name, tensor in saved_model.items():
        assert repeated[name].dtype == tensor.dtype and repeated[name].tobytes() == tensor.tobytes()
    for path, leaf in peft_adapter.read_adapter(tmp_path / "again", config).items():
        assert leaf.dtype == jnp.dtype(kind) and leaf.tobytes() == adapters[path].tobytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 4}, r"r = 4, but model\.lora\.rank = 2"),
        ({"lora_alpha": 8}, r"lora_alpha = 8, but model\.lora\.alpha = 6\.0"),
        ({"bias": "lora_only"}, r"bias = 'lora_only'"),
        ({"use_rslora": True}, r"use_rslora = True"),
        ({"use_dora": True}, r"use_dora = True"),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 3}}, r"rank_pattern = "),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa' also changes the base"),
        (
            {"target_modules": ["q_proj"]},
            r"missing in the source: base_model\.model\.model\.layers\.0\.self_attn\.v_proj\.lora_A",
        ),
        ({"target_modules": ["q_proj", "v_proj", "fc1"]}, r"unexpected in the source: .*\.mlp\.fc1\.lora_A"),
    ],
)
def test_unsupported_adapters_are_refused(saved_by_peft, fields, message):
    config, _, _, folder = saved_by_peft(**fields)
    with pytest.raises(UserError, match=message):
        peft_adapter.read_adapter(folder, config)


@pytest.mark.parametrize("field", ["x\x1b" * 10**5, "peft_type", "r", "bias", "init_lora_weights"])
def test_long_fields_are_truncated_in_messages(lora_config, tmp_path, field):
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 6.0, "bias": "none", "init_lora_weights": True}
    (tmp_path / peft_adapter.CONFIG).write_text(json.dumps(plain | {field: "y\x1b" * 10**5}))
    with pytest.raises(UserError) as excinfo:
        peft_adapter.read_adapter(tmp_path, lora_config())
    assert str(excinfo.value).isprintable() and len(str(excinfo.value)) < 1000


def test_a_broken_folder_is_named(lora_config, tmp_path, random_like, phi_shapes):
    config = lora_config(targets=TARGETS[0])
    with pytest.raises(UserError, match=r"adapter_config\.json: not a readable config"):
        peft_adapter.read_adapter(tmp_path / "nowhere", config)
    params = random_like(phi_shapes(config))
    folder = tmp_path / "adapter"
    peft_adapter.write_adapter(folder, params, config)
    peft_adapter.write_adapter(folder, flatten(params), config)  # in its own folder, by path
    tensors = load_file(folder / peft_adapter.WEIGHTS)
    wide = {name: np.concatenate([x, x], axis=int("lora_B" in name)) for name, x in tensors.items()}
    save_file(wide, folder / peft_adapter.WEIGHTS)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: .*\n.*/lora_a: shape \(12, 36, 4\), the model has \(12"):
        peft_adapter.read_adapter(folder, config)
    save_file(tensors | {next(iter(wide)): next(iter(wide.values()))}, folder / peft_adapter.WEIGHTS)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: the layers' adapters differ in shape"):
        peft_adapter.read_adapter(folder, config)
    (folder / peft_adapter.WEIGHTS).write_bytes(b"\0" * 9)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: is not a weight file"):
        peft_adapter.read_adapter(folder, config)
    (folder / peft_adapter.CONFIG).write_text('{"peft_type": "IA3"}')
    with pytest.raises(UserError, match=r"adapter_config\.json: peft_type = 'IA3'"):
        peft_adapter.read_adapter(folder, config)
    with pytest.raises(UserError, match=r"model\.lora\.rank = 0"):
        peft_adapter.read_adapter(folder, lora_config(rank=0))


def test_writing_is_strict(lora_config, tmp_path, random_like, phi_shapes):
    config = lora_config(targets=TARGETS[0])
    flat = flatten(random_like(phi_shapes(config)))
    less = {path: leaf for path, leaf in flat.items() if path != "llm/layers/attention/query/lora_b"}
    with pytest.raises(UserError, match=r"missing in the parameters: llm/layers/attention/query/lora_b"):
        peft_adapter.write_adapter(tmp_path / "a", less, config)
    more = flat | {"llm/layers/mlp/up/lora_a": np.zeros((12, 36, 2))}
    with pytest.raises(UserError, match=r"no PyTorch name for: llm/layers/mlp/up/lora_a"):
        peft_adapter.write_adapter(tmp_path / "a", more, config)
    with pytest.raises(UserError, match=r"lora_a: shape \(12, 36, 2\), the model has \(12, 36, 3\)"):
        peft_adapter.write_adapter(tmp_path / "a", flat, lora_config(targets=TARGETS[0], rank=3))
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"contains thesis\.txt, which would be deleted"):
        peft_adapter.write_adapter(tmp_path / "full", flat, config)
