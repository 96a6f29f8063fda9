"""The shipped tokenizer: its properties, and reproducible training."""

import json
import pickle
import sys

import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax import toy
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.hyperseg import toy_tokenizer
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.toy import toy_images


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.toy()


def test_training_reproduces_the_shipped_file(tmp_path):
    toy_tokenizer.train_toy_tokenizer().save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads(TOY_FILE.read_text())


def test_special_ids_and_size(tokenizer):
    assert (tokenizer.eos_id, tokenizer.id_of("[SEG]")) == (0, 1)
    assert 300 < tokenizer.vocab_size <= 640


@pytest.mark.parametrize(
    "text",
    ["the red ring left of the blue star.", "Zwölf Boxkämpfer: ☃!", " two  spaces\n\tand a tab ", "a, b", "", "USER: USER:"],
)
def test_texts_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_toy_sentences_have_one_token_per_word(tokenizer):
    world = toy.World()
    for index in range(15):
        for kinds in (world, toy.World(kinds="held_back", compositional=0)):
            sample = toy_images.generate_image(kinds, "val", index)
            texts = [f"{e.text}." for e in sample.expressions] + [text for pair in sample.conversation for text in pair]
            for text in texts:
                pieces = len(text.replace(",", " ,").replace(".", " .").replace("?", " ?").split())
                assert len(tokenizer.encode(text)) <= pieces, text
    for name in ("red ring", "pink heart", "sand", "background"):
        assert len(tokenizer.encode(name)) == len(name.split())


def test_templates_have_few_tokens(tokenizer):
    """Each marker (image, fine-grained, queries, ...) counts as one token."""
    regions = make_regions(np.ones((2, 4, 4), bool))
    for prompt, most in [
        (Prompt("referring", "the ring."), 12),
        (Prompt("reasoning", "which ring?"), 12),
        (Prompt("video", "the ring."), 13),
        (Prompt("panoptic", classes=("red ring", "sand")), 16),
        (Prompt("region", regions=regions), 16),
    ]:
        assert len(tokenize_prompt(prompt, tokenizer).ids) <= most, prompt.task


def test_save_load_and_pickle(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    text = "the small cyan cross above the ring."
    for copy in (Tokenizer.load(tmp_path / "new"), Tokenizer.load(TOY_FILE), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.encode(text) == tokenizer.encode(text)
        assert (copy.vocab_size, copy.eos_id, copy.id_of("[SEG]")) == (tokenizer.vocab_size, 0, 1)


def test_missing_special_tokens_are_added(tmp_path):
    """Like the tokenizer of the published language model."""
    content = json.loads(TOY_FILE.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[SEG]"]
    vocab = content["model"]["vocab"]
    gap = vocab.pop("[SEG]")
    move = lambda number: number - (number > gap)
    content["model"]["vocab"] = {token: move(number) for token, number in vocab.items()}
    content["added_tokens"] = [{**token, "id": move(token["id"])} for token in content["added_tokens"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path, added=("[SEG]",))
    assert tokenizer.id_of("[SEG]") == tokenizer.vocab_size - 1
    assert tokenizer.id_of("[SEG]") not in tokenizer.encode("x[SEG]")


def test_custom_end_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert (
        Tokenizer.load(tmp_path, eos="[SEG]").eos_id
        == pickle.loads(pickle.dumps(Tokenizer.load(tmp_path, eos="[SEG]"))).eos_id
        == 1
    )
    with pytest.raises(UserError, match=r"has no token '</s>'; use the tokenizer of the model"):
        Tokenizer.load(tmp_path, eos="</s>")


def write_parts(folder, **added):
    """Writes the shipped tokenizer as vocab.json, merges.txt and added_tokens.json, like GPT-2's."""
    content = json.loads(TOY_FILE.read_text())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    phrases = {token["content"]: token["id"] for token in content["added_tokens"] if token["content"] not in vocab}
    (folder / "added_tokens.json").write_text(json.dumps(dict(reversed((phrases | added).items()))))


def test_files_in_the_gpt2_format(tmp_path):
    size = Tokenizer.toy().vocab_size
    write_parts(tmp_path, **{"   ": size, "\t\t": size + 1})
    assert Tokenizer.is_in(tmp_path)
    text = "USER: the small cyan cross above the ring.[SEG]<|endoftext|>"
    tokenizer = Tokenizer.load(tmp_path, added=("[SEG]",))
    assert tokenizer.encode(text) == Tokenizer.toy().encode(text)
    assert tokenizer.encode("a   b\t\t")[1:] == [size, *Tokenizer.toy().encode("b"), size + 1]
    assert tokenizer.decode(tokenizer.encode("a   b\t\t")) == "a   b\t\t"
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.id_of("[SEG]")) == (size + 2, 0, 1)
    write_parts(tmp_path, strange=size + 7)
    with pytest.raises(UserError, match="strange the id"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_file_with_a_config(tokenizer, tmp_path):
    """The config adds tokens; its class, its paths and other files of the folder are ignored."""
    tokenizer.save(tmp_path)
    (tmp_path / "tokenization_own.py").write_text("raise SystemExit('executed')")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "tokenization_own.Own"}}))
    (tmp_path / "vocab.json").write_text("{}")
    decoder = {str(tokenizer.vocab_size): {"content": "<own>", "special": True}}
    fields = {"tokenizer_class": "GPT2Tokenizer", "tokenizer_file": "/dev/null", "added_tokens_decoder": decoder}
    fields["split_special_tokens"] = False  # would find [SEG] in a text
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"tokenizer_file": "/dev/null", "eos_token": "<|endoftext|>"}))
    loaded = Tokenizer.load(tmp_path)
    text = "the small cyan cross above the ring.[SEG]<|endoftext|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.id_of("<own>") == tokenizer.vocab_size and loaded.encode("<own>") == tokenizer.encode("<own>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "tokenization_own.Own"}}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json: auto_map names code"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_file_needs_no_transformers(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("a ring") == tokenizer.encode("a ring")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", '{"a": ', "vocab.json: its content is not readable JSON"),
        ("vocab.json", "[" * 100_000, "vocab.json: its content nests deeper than"),
        ("vocab.json", '["a"]', "vocab.json: its content is not a JSON object"),
        ("vocab.json", '{"a": -1}', "gives a the id -1"),
        ("vocab.json", '{"a": 0}', "merges.txt: its merge of .* does not match its vocabulary"),
        ("merges.txt", "\x00 three words here\n", "merges.txt: the line .* is not a merge"),
        ("added_tokens.json", '{"<own>": "first"}', "gives <own> the id first"),
        ("tokenizer_config.json", "null", "tokenizer_config.json: its content is not a JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}', "added_tokens_decoder has x"),
        ("special_tokens_map.json", '{"eos_token": 5}', "eos_token is not a token"),
    ],
)
def test_malformed_folders_are_one_line(tmp_path, name, content, message):
    write_parts(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_oversized_files_are_not_read(tmp_path):
    write_parts(tmp_path)
    with (tmp_path / "merges.txt").open("r+b") as file:
        file.truncate(2**27 + 1)  # a sparse file
    with pytest.raises(UserError, match=r"merges\.txt: has \d+ bytes, and the limit is"):
        Tokenizer.load(tmp_path)


def test_invalid_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="has no model"):
        Tokenizer.load(tmp_path)
