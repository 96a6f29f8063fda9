"""Phi against transformers' PhiForCausalLM, with imported and exported weights."""

import chex
import jax
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg import SYSTEM

# heads of size 12 with int(0.4 * 12) = 4 rotary dimensions
LLM = {
    "vocab_size": 37,
    "hidden_size": 36,
    "mlp_size": 40,
    "num_layers": 3,
    "num_heads": 3,
    "rotary_fraction": 0.4,
    "rotary_theta": 500.0,
    "epsilon": 1e-3,
}
IDS = np.random.default_rng(0).integers(0, 30, (3, 9))
MASK = np.ones((3, 9), bool)
MASK[1, 6:] = MASK[2, :2] = MASK[2, 5] = False  # padding at the end; at the beginning and in the middle


@pytest.fixture(scope="module")
def phi_config(config):
    return config(llm=LLM, head_vocab_size=37)


def parts(config):
    model = systems.get("hyperseg").build(config)
    return model.llm, model.language_head


def run_ours(config, params):
    """(logits, hidden states) of IDS under MASK."""
    llm, head = parts(config)

    @jax.jit
    def run(params):
        variables = {"params": params["llm"]}
        positions = np.broadcast_to(np.arange(IDS.shape[1], dtype=np.int32), IDS.shape)
        embeddings = llm.apply(variables, IDS, method="embed")
        hidden, inner = llm.apply(variables, TokenStream(embeddings, positions, MASK, positions), all_hidden=True)
        return head.apply({"params": params["language_head"]}, hidden), inner

    return run(params)


def run_theirs(model):
    import torch

    positions = torch.arange(IDS.shape[1])[None]
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.tensor(MASK, dtype=torch.long),
            position_ids=positions,
            output_hidden_states=True,
            use_cache=False,
        )
    return out.logits, out.hidden_states


def assert_same(assert_close, config, params, model):
    """Compares logits and every hidden state at unpadded positions."""
    (logits, inner), (their_logits, their_inner) = run_ours(config, params), run_theirs(model)
    assert len(inner) == len(their_inner) == 4
    for one, other in zip((logits, *inner), (their_logits, *their_inner), strict=True):
        assert_close(one[MASK], other[MASK])


@pytest.fixture
def phi(randomize):
    """A random PhiForCausalLM whose head's bias is zero."""
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    model = PhiForCausalLM(
        PhiConfig(
            vocab_size=37,
            hidden_size=36,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=3,
            layer_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.4},
            attn_implementation="eager",
        )
    )
    randomize(model).lm_head.bias.data.zero_()
    return model


def test_import(phi, phi_config, tmp_path, read_part, phi_shapes, assert_close):
    phi.save_pretrained(tmp_path)
    assert_same(assert_close, phi_config, read_part("phi", phi_config, tmp_path, phi_shapes(phi_config)), phi)


def test_export(phi_config, tmp_path, random_like, phi_shapes, write_part, load_pretrained, assert_close):
    from transformers import PhiForCausalLM

    params = random_like(phi_shapes(phi_config))
    write_part("phi", phi_config, params, tmp_path / "ours")
    assert_same(assert_close, phi_config, params, load_pretrained(PhiForCausalLM, tmp_path / "ours"))


def test_round_trip_is_bit_equal(phi, phi_config, round_trip):
    round_trip("phi", phi_config, phi)


def test_head_bias_is_refused(phi, phi_config, tmp_path, read_part):
    phi.lm_head.bias.data[3] = 1e-4
    phi.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^lm_head\.bias: not zero"):
        read_part("phi", phi_config, tmp_path)


def test_a_shorter_token_table_is_padded_with_zeros(
    config, tmp_path, random_like, phi_shapes, write_part, read_part, load_pretrained, assert_close
):
    from transformers import PhiForCausalLM

    short = config(llm=LLM | {"vocab_size": 30}, head_vocab_size=37)
    params = random_like(phi_shapes(short))
    write_part("phi", short, params, tmp_path / "ours")
    model = load_pretrained(PhiForCausalLM, tmp_path / "ours")
    assert_same(assert_close, short, params, model)
    chex.assert_trees_all_equal(read_part("phi", short, tmp_path / "ours", phi_shapes(short)), params)

    model.model.embed_tokens.weight.data[33] = 1.0
    model.save_pretrained(tmp_path / "longer")
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: only the first 30 rows"):
        read_part("phi", short, tmp_path / "longer")
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: 37 rows, the config expects 40"):
        read_part("phi", config(llm=LLM | {"vocab_size": 30}, head_vocab_size=40), tmp_path / "ours")


def test_a_shorter_head_is_refused(config):
    long = config(llm=LLM, head_vocab_size=36)
    for function in (SYSTEM.parts["phi"].table, SYSTEM.parts["phi"].config_json):
        with pytest.raises(UserError, match=r"model\.head_vocab_size = 36 is less than model\.llm\.vocab_size = 37"):
            function(long)
