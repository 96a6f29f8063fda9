"""Tokenizers of model folders: known ones load unchanged; those that would panic, grow or hang are refused in one line."""

import json
import os
import time

import fuzz
import pytest
import real_vocabulary
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from hyperseg_jax import atomic
from hyperseg_jax.errors import UserError
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.untrusted import limits

TOY = json.loads(TOY_FILE.read_text())
END = "<|endoftext|>"


def make_vocab(tokens):
    return {token: k for k, token in enumerate(dict.fromkeys(tokens))}


def make_byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(make_vocab([*alphabet, "th", "the"]), [("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([END])
    return backend


def make_llama():
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256)), "▁", "t", "h", "e", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    backend = Backend(models.BPE(make_vocab(pieces), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", END])
    return backend


def make_clip():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = make_vocab([*alphabet, *(f"{letter}</w>" for letter in alphabet), "th", "the</w>", "<|startoftext|>", END])
    return real_vocabulary.clip_backend(vocab, [("t", "h"), ("th", "e</w>")])


def make_bart():
    backend = make_byte_level()
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False), "<s>", "</s>"])
    ends = [("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = processors.RobertaProcessing(*ends)
    backend.add_tokens(["<bin_0>", "<code_0>"])  # OFA's tokens
    return backend


def make_bert():
    vocab = make_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "ring", "##s", "r", "##i"])
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder, backend.post_processor = decoders.WordPiece(), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens([END])
    return backend


def make_t5():
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("r", -4.0), ("ing", -5.0)]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens([END])
    return backend


KNOWN = {made.__name__: made for made in (make_byte_level, make_llama, make_clip, make_bart, make_bert, make_t5)}
TEXTS = ("the ring", "  The\tRINGS of Zürich ☃\n\n'll 12345", "", "the" * 50, "a<|endoftext|>b [SEG]")


@pytest.mark.parametrize("name", KNOWN)
def test_tokenizers_of_known_models_load_unchanged(tmp_path, name):
    theirs = KNOWN[name]()
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path, added=("[SEG]",))
    theirs.add_special_tokens([AddedToken("[SEG]", normalized=False)])
    assert json.loads(ours._backend.to_str()) == json.loads(theirs.to_str())
    for text in TEXTS:
        theirs.encode_special_tokens = True
        result = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == result and ours.decode(result) == theirs.decode(result)
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode(TEXTS[1]) == ours.encode(TEXTS[1])


def change_toy(**fields):
    return {**TOY, **fields}


def change_model(**fields):
    return change_toy(model={**TOY["model"], **fields})


def add_token(**fields):
    return change_toy(added_tokens=[*TOY["added_tokens"], {"id": SIZE, "content": "<new>", **fields}])


def replace_normalizer(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def make_sequence(role, members, *parts):
    return change_toy(**{role: {"type": "Sequence", members: list(parts)}})


def nest(part):
    sequence = lambda inner: {"type": "Sequence", "normalizers": [inner]}
    return sequence(sequence(part))


SIZE = Tokenizer.toy().vocab_size
SHIFTED = {token: number + 7 for token, number in TOY["model"]["vocab"].items()}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "##"}
HOSTILE = [
    (change_toy(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "normalizer is Precompiled"),
    (change_toy(normalizer=replace_normalizer("a", "a" * 100)), "replaces 'a' by the longer"),
    (change_toy(normalizer=replace_normalizer("", "a")), "has a pattern that is not allowed"),
    (change_toy(normalizer=replace_normalizer("a", "\ufdfa")), "replaces"),  # 18 letters after normalization
    (change_toy(decoder=replace_normalizer("a", "bb")), "replaces"),
    (make_sequence("normalizer", "normalizers", *[{"type": "StripAccents"}] * 40), "more than 32 parts"),
    (make_sequence("pre_tokenizer", "pretokenizers", *[{"type": "ByteLevel"}] * 3), "has ByteLevel twice"),
    (make_sequence("normalizer", "normalizers", *[{"type": "Prepend", "prepend": "x"}] * 2), "has Prepend twice"),
    (change_toy(normalizer={"type": "Prepend", "prepend": "x" * 1000}), "has a prepend that is not allowed"),
    (change_toy(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a+)+$"}}), "pattern that is not allowed"),
    (change_toy(pre_tokenizer={"type": "Lua", "code": "x"}), "pre_tokenizer is Lua"),
    (change_toy(decoder={"type": "Strip", "content": " ", "start": 2**60, "stop": 0}), "start that is not allowed"),
    # the library panics when a token is shorter
    (change_toy(decoder={"type": "Strip", "content": " ", "start": 0, "stop": 1}), "stop that is not allowed"),
    # the library panics when the next normalizer sees no letters
    (change_toy(normalizer={"type": "Prepend", "prepend": ""}), "has a prepend that is not allowed"),
    (change_toy(post_processor={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}), "has a single"),
    (change_toy(script="x"), "has an unknown field script"),
    (change_model(dropout=0.5), "dropout that is not allowed"),
    (change_model(type="Neural"), "model is Neural"),
    (change_model(end_of_word_suffix="x" * 2**20), "end_of_word_suffix that is not allowed"),
    (change_model(vocab=SHIFTED), "of another token|each once"),
    (change_model(vocab={**TOY["model"]["vocab"], "<beyond>": SIZE + 5}), "each once"),
    (change_model(vocab={**TOY["model"]["vocab"], "<twice>": 5}), "each once|of another token"),
    (change_model(vocab={"a": 2**70}), "gives a the id"),
    (change_model(vocab={"a": -1}), "gives a the id"),
    (change_model(vocab=[["a", 1.0]]), "is not a JSON object"),
    (change_model(merges=[["a", "not there"]]), "merge of a and not there does not match"),
    (change_model(merges=["a b c"]), "merges that is not allowed"),
    ({"model": BPE}, "merge of a and b does not match"),
    ({"model": {**BPE, "continuing_subword_prefix": "", "vocab": {"a": 0, "b": 1}}}, "merge of a and b does not match"),
    (change_toy(model={"type": "WordPiece", "unk_token": "[UNK]", "vocab": {}}), "unk_token that is not in its vocabulary"),
    (
        change_toy(model={"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}),
        "max_input",
    ),
    (change_toy(model={"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}), "unk_id"),
    (change_toy(model=None), "has no model"),
    (add_token(id=SIZE + 4), "each once"),
    (add_token(id=3), "of another token"),
    (add_token(content="[SEG]"), "of another token"),
    (add_token(content=""), "without a valid content or id"),
    (add_token(content=" ", lstrip=True, rstrip=True), "strips surrounding spaces"),
    (
        {**add_token(content="x", lstrip=True, normalized=True), "normalizer": nest(replace_normalizer("x", " "))},
        "strips surrounding spaces",
    ),
    (change_toy(version="9"), "is not a tokenizer"),
    ([], "is not a JSON object"),
]


def test_normalizers_without_effect_are_accepted(tmp_path):
    token = {**TOY["added_tokens"][0], "id": SIZE, "content": "<x>", "lstrip": True, "normalized": True}
    prepends = nest({"type": "Prepend", "prepend": "String"})
    content = change_toy(added_tokens=[*TOY["added_tokens"], token], normalizer=prepends)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path).vocab_size == SIZE + 1


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_unsafe_tokenizers_are_refused(tmp_path, content, message):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(f"{file}: ")
    fuzz.assert_one_line(str(raised.value))


def test_added_tokens_that_the_normalizer_removes_are_refused(tmp_path):
    """The library would fail at every text."""
    strip = {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKD"}]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    content = {**add_token(content="\n", normalized=True, **flags), "normalizer": strip}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: its normalizer removes the added token \\n"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"its normalizer removes the added token \\n"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("merges", "message"),
    [("a b\nb c", "merge of b and c does not match"), ("a b c", "the line a b c is not a merge"), ("\0", "is not a merge")],
)
def test_invalid_merges_are_refused(tmp_path, merges, message):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2, "ab": 3, "<|endoftext|>": 4}))
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    with pytest.raises(UserError, match=message) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'merges.txt'}: ")


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path):
    padding = {"strategy": {"Fixed": 2_000_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 99}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(change_toy(padding={**padding, "pad_type_id": 0, "pad_token": "x"}, truncation=cut)))
    text = "the small cyan cross above the ring"
    with fuzz.limit_resources(seconds=5):
        assert Tokenizer.load(tmp_path).encode(text) == Tokenizer.toy().encode(text)


def test_too_long_texts_are_reported_with_the_limit():
    with pytest.raises(UserError, match=r"has 50000 letters, and the limit is 32768; .*limits\.letters"):
        Tokenizer.toy().encode("a" * 50_000)
    with limits.temporary_limits(letters=60_000):
        assert len(Tokenizer.toy().encode("☃" * 50_000)) == 150_000


@pytest.mark.parametrize("name", KNOWN)
def test_the_longest_texts_are_fast(tmp_path, name):
    KNOWN[name]().save(str(tmp_path / "tokenizer.json"))
    tokenizer, most = Tokenizer.load(tmp_path), limits.Limits().letters
    for piece in (" ", "a", "the", "☃", "\ufdfa", " <mask>", "'s\n"):
        with fuzz.limit_resources(seconds=5):
            began = time.perf_counter()
            tokenizer.encode((piece * most)[:most])
            assert time.perf_counter() - began < 5


def test_lone_surrogates_are_rejected():
    with pytest.raises(UserError, match="cannot be tokenized"):
        Tokenizer.toy().encode("a \ud800 ring")


def test_pipes_and_devices_are_not_read(tmp_path):
    file = tmp_path / "tokenizer.json"
    for make in (lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file)):
        make()
        with fuzz.limit_resources(seconds=10), pytest.raises(UserError, match="no such file"):
            Tokenizer.load(tmp_path)
        file.unlink()


def make_property(folder):
    """Returns the property of damaged tokenizer.json files: a one-line error, or a bounded tokenizer with valid ids."""

    def check(data):
        (folder / "tokenizer.json").write_bytes(data)
        made = fuzz.check_call(lambda: Tokenizer.load(folder), says=str(folder))
        if isinstance(made, Tokenizer):
            for text in ("the red ring <mask> ☃[SEG]", " a" * 2000):
                ids = fuzz.check_call(lambda text=text: made.encode(text))
                assert isinstance(ids, UserError) or (len(ids) < 100_000 and max(ids, default=0) < made.vocab_size)
                if not isinstance(ids, UserError):
                    fuzz.check_call(lambda ids=ids: made.decode(ids))

    return check


@pytest.mark.parametrize("name", KNOWN)
def test_damaged_tokenizers(tmp_path, name):
    fuzz.run_property(make_property(tmp_path), fuzz.damaged_json(json.loads(KNOWN[name]().to_str())), examples=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_damaged_tokenizers_for_long(tmp_path, name, run_property_long):
    run_property_long(make_property(tmp_path), fuzz.damaged_json(json.loads(KNOWN[name]().to_str())))


def test_the_copy_for_transformers_is_a_removable_temporary_folder(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    folder, recorded = tmp_path / "tokenizer", []
    Tokenizer.toy().save(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    full = AutoTokenizer.from_pretrained

    def record_folder(copy, **options):
        recorded.append(copy)
        return full(copy, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", record_folder)
    Tokenizer.load(folder)
    assert atomic.is_temporary(recorded[0].parents[1]) and not recorded[0].exists()
