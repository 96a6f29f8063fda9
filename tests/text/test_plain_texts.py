"""Texts of users are never searched for special tokens, by each kind of tokenizer and in the prompts of each system."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.hyperseg import prompts as hyperseg
from hyperseg_jax.systems.ifseg import texts as ifseg
from hyperseg_jax.systems.instructseg import prompts as instructseg
from hyperseg_jax.systems.psalm.markers import Marker
from hyperseg_jax.systems.psalm.templates import END, SEG
from hyperseg_jax.systems.sca.texts import END as CAPTION_ENDS
from hyperseg_jax.systems.seem import texts as seem
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer

SPECIAL = (SEG, END, "<|startoftext|>", "<image>", "<temporal>", "<seg>", "<refer>", "<cls>", "<region>", "<gt>", "<s>", "</s>")
SPECIAL += ("<unk>", "<pad>", "<mask>", "<bin_3>", "<code_7>", "{text}", "{answer}", "{}", "[CLS]", "<0x41>")
LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TEXTS = st.lists(st.one_of(LETTERS, st.sampled_from(SPECIAL)), max_size=6).map("".join)
"""Any text, with the letters of special tokens in it."""


def make_llama():
    """A tokenizer of words and of bytes for other letters, like LLaMA's."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, "▁": 259, "▁the": 260}
    backend = Backend(models.BPE(vocab, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(spaces)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """{kind: (tokenizer, whether it keeps every text)}."""
    folder = tmp_path_factory.mktemp("tokenizers")
    make_llama().save(str(folder / "llama.json"))
    content = json.loads(TOY_FILE.read_text())
    for token in content["added_tokens"]:  # as in files of the authors, who add [SEG] like a word
        token["special"] = token["special"] and token["content"] != SEG
    (folder / "words.json").write_text(json.dumps(content))
    alphabet = [*pre_tokenizers.ByteLevel.alphabet()]
    vocab = {letter: k for k, letter in enumerate([*alphabet, *(f"{letter}</w>" for letter in alphabet)])}
    clip = Backend(models.BPE(vocab, [], end_of_word_suffix="</w>"))
    clip.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    clip.decoder = decoders.Sequence([decoders.Replace("</w>", ""), decoders.ByteLevel()])
    clip.add_special_tokens(["<|startoftext|>", END])
    clip.save(str(folder / "clip.json"))
    return {
        "toy": (Tokenizer.load(TOY_FILE, eos=END, added=(SEG,)), True),
        "seg added as a word": (Tokenizer.load(folder / "words.json", eos=END, added=(SEG,)), True),
        "clip": (Tokenizer.load(folder / "clip.json", eos=END, added=("<|startoftext|>",)), True),
        "gpt2": (Tokenizer.load(TOY_FILE, eos=CAPTION_ENDS["gpt2"]), True),
        "llama": (Tokenizer.load(folder / "llama.json", eos=CAPTION_ENDS["llama"]), True),
        "ofa": (ifseg._toy_tokenizer(), False),  # splits at white space
    }


def special_ids(tokenizer):
    """The ids of the special tokens that this tokenizer has."""
    known = tokenizer._backend.token_to_id
    return {known(token) for token in SPECIAL} - {None} - {known("<unk>")} - {known("<0x41>")}


def check_text(tokenizers, text):
    for name, (tokenizer, keeps) in tokenizers.items():
        ids = tokenizer.encode(text)
        assert special_ids(tokenizer).isdisjoint(ids), (name, text)
        decoded = tokenizer.decode(ids)
        if name == "llama":
            text_or = {text, text.replace("▁", " ")}
            assert decoded in text_or or decoded == text.replace("▁", " ").removeprefix(" "), (name, text)
        else:
            expected = text if keeps else "".join(text.split())
            assert (decoded if keeps else "".join(decoded.split())) == expected, (name, text)


def check_prompts(tokenizers, text):
    """In the prompts of the systems, the special tokens and markers are those of the template, wherever the text stands."""
    toy, clip, ofa = (tokenizers[name][0] for name in ("toy", "clip", "ofa"))
    plain = "the cup"
    for build, tasks in (
        (hyperseg.tokenize_prompt, ("referring", "reasoning", "video", "chat")),
        (instructseg.tokenize_prompt, instructseg.TASKS),
    ):
        for task in tasks:
            ids, expected = (build(Prompt(task, words, answer=words), toy, train=True) for words in (f"x{text}x", plain))
            for part in ("ids", "expression"):
                counts = [[getattr(t, part).count(k) for k in (*Marker, toy.eos_id, toy.id_of(SEG))] for t in (ids, expected)]
                assert counts[0] == counts[1], (task, text)
    tokens = hyperseg.tokenize_prompt(Prompt("panoptic", classes=(f"x{text}x", "cup")), toy)
    assert [[*ids].count(toy.id_of(SEG)) for ids in tokens.classes] == [1, 1, 1]
    ids = seem.text_ids(clip, text, 77)
    assert (ids[0], ids[-1]) == (clip.id_of(seem.START), clip.eos_id) and special_ids(clip).isdisjoint(ids[1:-1])
    ids = ifseg.text_ids(ofa, [text])
    assert (ids[0], ids[-1]) == (ifseg.START, ifseg.END) and special_ids(ofa).isdisjoint(ids[1:-1])


@pytest.mark.parametrize("text", SPECIAL)
def test_letters_of_special_tokens(tokenizers, text):
    for words in (text, f"the cyan triangle{text}", f"{text} {text}x"):
        check_text(tokenizers, words)
        check_prompts(tokenizers, words)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_any_text(tokenizers, text):
    check_text(tokenizers, text)
    check_prompts(tokenizers, text)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(text=TEXTS)
def test_many_texts(tokenizers, text):
    check_text(tokenizers, text)
    check_prompts(tokenizers, text)


def test_a_vocabulary_with_a_special_token_as_a_word(tmp_path):
    """It cannot write the letters, and says so."""
    vocab = {"[UNK]": 0, "the": 1, "[SEG]": 2, END: 3}
    backend = Backend(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[UNK]", END])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json", added=(SEG,))
    assert tokenizer.encode("the cup") == [1, 0]
    with pytest.raises(UserError, match="the letters of a special token"):
        tokenizer.encode("the [SEG]")
