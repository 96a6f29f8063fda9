"""Phi beside transformers' PhiForCausalLM, with weights of either."""

import chex
import jax
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.parts import PARTS

# heads of 12 of which int(0.4 * 12) = 4 dimensions turn
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
MASK[1, 6:] = MASK[2, :2] = MASK[2, 5] = False  # padded behind; padded before and in the middle


@pytest.fixture(scope="module")
def even(config):
    return config(llm=LLM, head_vocab_size=37)


def parts(config):
    model = systems.get("hyperseg").build(config)
    return model.llm, model.language_head


def ours(config, params):
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


def theirs(model):
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


def same(close, config, params, model):
    """Logits and every hidden state, at the positions that are not padding."""
    (logits, inner), (their_logits, their_inner) = ours(config, params), theirs(model)
    assert len(inner) == len(their_inner) == 4
    for one, other in zip((logits, *inner), (their_logits, *their_inner), strict=True):
        close(one[MASK], other[MASK])


@pytest.fixture
def phi(random_torch):
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
    random_torch(model).lm_head.bias.data.zero_()
    return model


def test_their_weights_in_ours(phi, even, tmp_path, read_part, phi_shapes, close):
    phi.save_pretrained(tmp_path)
    same(close, even, read_part("phi", even, tmp_path, phi_shapes(even)), phi)


def test_our_weights_in_theirs(even, tmp_path, random_ours, phi_shapes, write_part, open_whole, close):
    from transformers import PhiForCausalLM

    params = random_ours(phi_shapes(even))
    write_part("phi", even, params, tmp_path / "ours")
    same(close, even, params, open_whole(PhiForCausalLM, tmp_path / "ours"))


def test_bits_survive(phi, even, round_trip):
    round_trip("phi", even, phi)


def test_a_bias_of_the_head_is_refused(phi, even, tmp_path, read_part):
    phi.lm_head.bias.data[3] = 1e-4
    phi.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^lm_head\.bias: not zero"):
        read_part("phi", even, tmp_path)


def test_a_shorter_token_table_is_padded_with_zeros(
    config, tmp_path, random_ours, phi_shapes, write_part, read_part, open_whole, close
):
    from transformers import PhiForCausalLM

    short = config(llm=LLM | {"vocab_size": 30}, head_vocab_size=37)
    params = random_ours(phi_shapes(short))
    write_part("phi", short, params, tmp_path / "ours")
    model = open_whole(PhiForCausalLM, tmp_path / "ours")
    same(close, short, params, model)
    chex.assert_trees_all_equal(read_part("phi", short, tmp_path / "ours", phi_shapes(short)), params)

    model.model.embed_tokens.weight.data[33] = 1.0
    model.save_pretrained(tmp_path / "longer")
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: only the first 30 rows"):
        read_part("phi", short, tmp_path / "longer")
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: 37 rows, the config expects 40"):
        read_part("phi", config(llm=LLM | {"vocab_size": 30}, head_vocab_size=40), tmp_path / "ours")


def test_a_shorter_head_is_refused(config):
    long = config(llm=LLM, head_vocab_size=36)
    for ask in (PARTS["phi"].table, PARTS["phi"].config_json):
        with pytest.raises(UserError, match=r"model\.head_vocab_size = 36 is less than model\.llm\.vocab_size = 37"):
            ask(long)
