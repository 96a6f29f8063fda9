"""GPT-2 and LLaMA against transformers' GPT2LMHeadModel and LlamaForCausalLM: weights in both directions, hidden states, and
generated texts."""

import functools
import json

import chex
import jax
import numpy as np
import pytest
from beam_search import search

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import gpt2, hub, llama
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import generate
from hyperseg_jax.structs import TokenStream

MODELS = {
    "gpt2": gpt2.GPT2(37, 24, 40, 3, 4, 30, 1e-3, 0.2),
    "llama": llama.Llama(37, 24, 40, 3, 6, 2, 500.0, 1e-3),  # three heads share keys and values
    "llama-tied": llama.Llama(37, 24, 40, 3, 4, tied=True),
}
IDS = np.random.default_rng(0).integers(0, 37, (3, 9))
MASK = np.ones((3, 9), bool)
MASK[1, 6:] = False


@pytest.fixture(params=MODELS)
def ours(request):
    return MODELS[request.param]


def kind_of(model):
    return "gpt2" if isinstance(model, gpt2.GPT2) else "llama"


def class_of(model):
    import transformers

    return transformers.GPT2LMHeadModel if kind_of(model) == "gpt2" else transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def make_theirs(randomize):
    """make_theirs(ours): a random model of transformers with our sizes."""
    import torch

    def make(ours):
        kind = class_of(ours)
        torch.manual_seed(0)
        return randomize(kind(kind.config_class(**hub_content(ours), attn_implementation="eager")))

    return make


@pytest.fixture
def theirs(ours, make_theirs):
    return make_theirs(ours)


def hub_content(model):
    module = gpt2 if kind_of(model) == "gpt2" else llama
    without = {"bos_token_id": None, "eos_token_id": None}
    return {key: value for key, value in module.hub_settings(model).items() if key != "architectures"} | without


def shapes(model):
    import flax.linen as nn

    stream = TokenStream.of_text(np.zeros((1, 2, model.hidden_size), np.float32))
    return {"llm": nn.unbox(jax.eval_shape(model.init, jax.random.key(0), stream)["params"])}


def assert_same(assert_close, ours, params, theirs):
    """Compares logits and every hidden state at unpadded positions."""
    import torch

    @jax.jit
    def run(params):
        apply = lambda *inputs, **options: ours.apply({"params": params["llm"]}, *inputs, **options)
        hidden, inner = apply(TokenStream.of_text(apply(IDS, method="embed"), MASK), all_hidden=True)
        return apply(hidden, method="logits"), *inner

    with torch.no_grad():
        mask = torch.tensor(MASK, dtype=torch.long)
        positions = torch.arange(IDS.shape[1])[None]
        out = theirs(torch.tensor(IDS), attention_mask=mask, position_ids=positions, output_hidden_states=True)
    result = run(params)
    assert len(result) == 5
    for one, other in zip(result, (out.logits, *out.hidden_states), strict=True):
        assert_close(one[MASK], other[MASK])


def test_import(ours, theirs, tmp_path, read_part, assert_close):
    theirs.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert hub.from_hub(settings) == (ours if kind_of(ours) == "gpt2" else ours.clone(num_kv_heads=ours.kv_heads))
    assert_same(assert_close, ours, read_part(kind_of(ours), ours, tmp_path, shapes(ours)), theirs)


def test_export(ours, tmp_path, random_like, write_part, load_pretrained, assert_close):
    params = random_like(shapes(ours))
    write_part(kind_of(ours), ours, params, tmp_path / "ours")
    assert_same(assert_close, ours, params, load_pretrained(class_of(ours), tmp_path / "ours"))


def test_round_trip_is_bit_equal(ours, theirs, round_trip):
    round_trip(kind_of(ours), ours, theirs)


@pytest.mark.parametrize("tied", ["gpt2", "llama-tied"])
def test_a_tied_head_may_be_in_the_checkpoint(tied, random_like):
    model = MODELS[tied]
    params = random_like(shapes(model))["llm"]
    table = hub.weight_table(model, with_head=True)
    tensors = table.to_torch(params)
    token_table = "transformer.wte.weight" if tied == "gpt2" else "model.embed_tokens.weight"
    np.testing.assert_array_equal(tensors["lm_head.weight"], tensors[token_table])
    for absent in (None, "lm_head.weight", token_table):
        chex.assert_trees_all_equal(table.to_flax({key: x for key, x in tensors.items() if key != absent}), params)
    with pytest.raises(UserError, match=rf"{token_table} and lm_head.weight differ"):
        table.to_flax(tensors | {"lm_head.weight": 2 * tensors["lm_head.weight"]})
    with pytest.raises(UserError, match=rf"missing in the source: {token_table}"):
        table.to_flax({key: x for key, x in tensors.items() if key not in (token_table, "lm_head.weight")})


@functools.partial(jax.jit, static_argnums=0)
def write(model, params, decoding):
    """Generates after the first four IDS of each row."""
    apply = lambda *inputs, method: model.apply({"params": params}, *inputs, method=method)
    step = lambda ids, number, cache: apply(ids, cache, method="continue_text")
    logits, cache = apply(apply(IDS[:, :4], method="embed"), decoding.max_new_tokens - 1, method="begin_text")
    return generate(logits, step, cache, jax.random.split(jax.random.key(0), len(IDS)), decoding)


def random_pairs(ours, theirs, count):
    """Yields our parameters, transformers' model, and an end token, of `count` random models that do not repeat a token."""
    import torch

    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
        tensors = {key: value.detach().numpy() for key, value in theirs.state_dict().items()}
        greedy = generate_theirs(theirs, 9, eos_token_id=None)
        assert len(np.unique(greedy)) > 4
        yield hub.weight_table(ours, with_head=True).to_flax(tensors), theirs, int(greedy[0, 6])


def generate_theirs(model, steps, **options):
    """Generates with transformers after the first four IDS of each row; texts are padded with the end token, or 0."""
    import torch

    ids, padding = torch.tensor(IDS[:, :4]), options["eos_token_id"] or 0
    options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": padding, **options}
    texts = model.generate(ids, attention_mask=torch.ones_like(ids), **options).numpy()[:, 4:]
    return np.pad(texts, ((0, 0), (0, steps - texts.shape[1])), constant_values=padding)


def search_theirs(model, **options):
    """Searches as transformers 4.36 did, with the logits of transformers' model and without a cache."""
    import torch

    def search_row(row):
        def log_probabilities(texts):
            with torch.no_grad():
                return model(torch.tensor([[*row, *tokens] for tokens in texts])).logits[:, -1].log_softmax(-1).tolist()

        return search(log_probabilities, **options)

    return np.array([search_row(row) for row in IDS[:, :4].tolist()])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_greedy_texts(name, make_theirs):
    ours = MODELS[name]
    for params, theirs, end in random_pairs(ours, make_theirs(ours), 3):
        expected = generate_theirs(theirs, 9, eos_token_id=end)
        np.testing.assert_array_equal(write(ours, params, Decoding(max_new_tokens=9, eos_id=end)), expected)
        assert (expected[0, 6:] == end).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_beams_of_one_length(name, make_theirs):
    """Without an end token, the search of any release of transformers is the same."""
    ours = MODELS[name]
    for params, theirs, _ in random_pairs(ours, make_theirs(ours), 3):
        expected = generate_theirs(theirs, 9, num_beams=4, eos_token_id=None)
        np.testing.assert_array_equal(write(ours, params, Decoding("beams", 9, beams=4)), expected)
        assert (expected != generate_theirs(theirs, 9, eos_token_id=None)).any()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_beams_with_an_end(name, make_theirs):
    """As in transformers 4.36; later releases stop earlier, when no live beam has a better score."""
    ours, lengths = MODELS[name], set()
    for params, theirs, end in random_pairs(ours, make_theirs(ours), 3):
        for penalty in (1.0, 0.0):
            expected = search_theirs(theirs, beams=3, steps=9, length_penalty=penalty, end=end)
            decoding = Decoding("beams", 9, beams=3, length_penalty=penalty, eos_id=end)
            np.testing.assert_array_equal(write(ours, params, decoding), expected)
            lengths |= set((expected != end).sum(1).tolist())
    assert len(lengths) > 1
